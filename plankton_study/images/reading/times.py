"""Times as they stand in tables and file names. What is not clear stays unknown."""

import pandas as pd

from plankton_study.images.catalogue import CatalogueEntry
from plankton_study.images.reading.said import say


def parse_times(texts: pd.Series, entry: CatalogueEntry) -> pd.Series:
    """Return times in UTC; unreadable times, and those outside the deployment, become NaT.

    Only ISO 8601 and the entry's own format are accepted, since guessing could swap day and month.
    It prints how many times cannot be read.
    """
    times = pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601")
    if entry.time_format:
        in_own_format = pd.to_datetime(texts, utc=True, errors="coerce", format=entry.time_format)
        times = in_own_format.fillna(times)
    times = times.dt.tz_localize(None).astype("datetime64[s]")
    is_lost = texts.notna() & times.isna()
    if is_lost.any():
        first = texts[is_lost].iloc[0]
        say(
            f"{is_lost.sum()} of {texts.notna().sum()} times cannot be read, the first is {first!r}"
        )
    if entry.deployed:  # a clock that was never set may say 1970 or 2057
        first_day, last_day = map(pd.Timestamp, entry.deployed)
        times = times.where(times.between(first_day, last_day + pd.Timedelta(days=1)))
    return times


def join_date_and_time(
    dates: pd.Series, clocks: pd.Series | None, time_format: str | None
) -> pd.Series:
    """Return date and time of day as one text in ISO 8601; missing where there is no date.

    Args:
        dates: texts such as 20140420 or 2014-04-20, or in the entry's own format.
        clocks: times of day, see `clock_text`; None if there is no such column.
        time_format: the entry's own format of dates.
    """
    dates = dates.str.strip()
    dates = dates.where(dates.ne(""))
    clocks = pd.Series("", dates.index) if clocks is None else clocks.fillna("").str.strip()
    joined = dates + "T" + clocks.map(clock_text)
    if time_format is None:
        return joined
    parsed = pd.to_datetime(dates, errors="coerce", format=time_format)
    has_clock = clocks.ne("")
    with_clock = parsed.dt.strftime("%Y%m%d") + "T" + clocks.map(clock_text)
    alone = parsed.dt.strftime("%Y%m%dT%H%M%S")
    return with_clock.where(has_clock, alone).where(parsed.notna(), joined)


def clock_text(text: str) -> str:
    """Return a time of day as HHMMSS, as EcoTaxa reads it; other texts stay as they are.

    Zeros at the beginning may be missing, and so may seconds: 420 and 0420 are 04:20:00, and 42000
    is 04:20:00 too. No text is midnight.
    """
    text = text.strip()
    whole, dot, fraction = text.partition(".")
    if not whole:
        return "000000"
    if not whole.isdecimal():
        return text
    if len(whole) % 2:
        whole = f"0{whole}"
    return whole.ljust(6, "0") + dot + fraction
