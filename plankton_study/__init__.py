"""Are the features of a frozen, label-free diffusion model a good encoder for fine-grained plankton images?"""
