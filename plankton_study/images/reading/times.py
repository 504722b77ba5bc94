"""Times as they stand in tables and file names. What is not clear stays unknown."""

import re

import pandas as pd

from plankton_study.images.catalogue import CatalogueEntry
from plankton_study.images.reading.said import say

#: a time outside these years is a mistake, such as milliseconds read as seconds
FIRST_TIME, LAST_TIME = pd.Timestamp("1800-01-01"), pd.Timestamp("2100-01-01")
#: what a text in ISO 8601 begins with; pandas would also take "0930" for a year, and "now"
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{8}")


def parse_times(texts: pd.Series, entry: CatalogueEntry) -> pd.Series:
    """Return times in UTC; unreadable times, and those outside the deployment, become NaT.

    Only ISO 8601 with a whole date, and the entry's own format, are accepted, since guessing could
    swap day and month. It says how many times cannot be read or are impossible.
    """
    is_text = texts.map(lambda value: isinstance(value, str)).astype(bool)
    has_date = texts.map(lambda value: bool(ISO_DATE.match(str(value)))).astype(bool)
    in_iso = texts.where(~is_text | has_date)
    times = pd.to_datetime(in_iso, utc=True, errors="coerce", format="ISO8601")
    if entry.time_format:
        in_own_format = pd.to_datetime(texts, utc=True, errors="coerce", format=entry.time_format)
        times = in_own_format.fillna(times)
    times = times.dt.tz_localize(None).astype("datetime64[s]")
    _say_lost(texts, texts.notna() & times.isna(), "cannot be read")
    is_possible = times.between(FIRST_TIME, LAST_TIME)
    _say_lost(times, times.notna() & ~is_possible, "lie outside the years 1800 to 2100")
    times = times.where(is_possible)
    if entry.deployed:  # a clock that was never set may say 1970 or 2057
        first_day, last_day = map(pd.Timestamp, entry.deployed)
        is_deployed = times.between(first_day, last_day + pd.Timedelta(days=1))
        _say_lost(times, times.notna() & ~is_deployed, "lie outside the days of entry.deployed")
        times = times.where(is_deployed)
    return times


def _say_lost(values: pd.Series, is_lost: pd.Series, why: str) -> None:
    """Say how many times are unknown for a reason."""
    if is_lost.any():
        first = str(values[is_lost].iloc[0])
        say(f"{is_lost.sum()} of {values.notna().sum()} times {why}, the first is {first!r}")


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

    Zeros at the beginning may be missing, and so may seconds: 420 and 0420 are 04:20:00, 12 is
    00:12:00, and 42000 is 04:20:00. No text is midnight.
    """
    text = text.strip()
    whole, dot, fraction = text.partition(".")
    if not text:
        return "000000"
    if not whole.isdecimal() or (dot and len(whole) < 4):  # a share of the day is no time of day
        return text
    if len(whole) <= 4:
        return whole.zfill(4) + "00" + dot + fraction
    return whole.zfill(6) + dot + fraction
