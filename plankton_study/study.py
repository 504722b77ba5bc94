"""One study: its profile, seed, folders and device."""


class StudyError(Exception):
    """A mistake the user can mend, told in one sentence: what, where, what to do."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]
