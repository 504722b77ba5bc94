"""A vision transformer with small patches, plain and as a masked autoencoder."""

from typing import Any

from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from plankton_study.run.schema import ViT


def build_vit(config: ViT, size: int) -> ViTModel:
    """Return an untrained ViT; its weights have the same names as in `build_mae`'s encoder.

    Args:
        config: the keys of [vit].
        size: side of the images, px.
    """
    return ViTModel(ViTConfig(**_encoder_shape(config, size)), add_pooling_layer=False)


def build_mae(config: ViT, size: int, mask: float) -> ViTMAEForPreTraining:
    """Return an untrained masked autoencoder (He et al. 2022).

    Args:
        config: the keys of [vit].
        size: side of the images, px.
        mask: share of the patches that are hidden.
    """
    mae = ViTMAEForPreTraining(
        ViTMAEConfig(
            **_encoder_shape(config, size),
            decoder_hidden_size=config.decoder_width,
            decoder_num_hidden_layers=config.decoder_depth,
            decoder_num_attention_heads=config.heads,
            decoder_intermediate_size=4 * config.decoder_width,
            mask_ratio=mask,
            norm_pix_loss=config.normalise_patches,
        )
    )
    # transformers 5.23 treats the position embeddings as initialised and leaves them at zero;
    # without positions the model cannot learn
    embeddings = mae.vit.embeddings
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.initialize_weights()
    mae.decoder.initialize_weights(embeddings.patch_embeddings.num_patches)
    return mae


def _encoder_shape(config: ViT, size: int) -> dict[str, Any]:
    return {
        "image_size": size,
        "patch_size": config.patch,
        "num_channels": 1,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        # the default of 0.02 is meant for wider networks; narrow ones hardly train with it
        "initializer_range": config.width**-0.5,
    }
