"""Errors that the user can fix."""


class StudyError(Exception):
    """A user-fixable error in one sentence: what was found, what is needed, what to do."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython prints instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error message, or the error's type if it has no message."""
    lines = str(error).splitlines()
    if not lines:
        return type(error).__name__
    return lines[0].split(". ")[0]
