import io

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import BadRow, Narration
from cliploom.transforms.narrations import subtitles
from cliploom.transforms.narrations.subtitles import read_subtitles

SRT = "1\n00:00:01,000 --> 00:00:02,500\nHello\n<i>there</i>\n\n2\n00:01:00,000 --> 00:01:01,000\nBye\n"
VTT = """WEBVTT - a title

STYLE
::cue { color: red }

NOTE not a text

intro
00:01.000 --> 00:02.500 position:10%
<v Ann>Hello</v> &amp; <c.loud>welcome</c>

NOTE
also not

01:00:00.000 --> 01:00:01.000
Bye
"""


def rows_of(text, format_="srt", **options):
    data = text.encode() if isinstance(text, str) else text
    return list(read_subtitles(io.BytesIO(data), format_, uid="v", **options))


def test_srt_cues_are_stretches_of_text_without_markup():
    assert rows_of(SRT) == [
        Narration("v", 0, 0, 1.0, 2.5, "Hello there"),
        Narration("v", 0, 1, 60.0, 61.0, "Bye"),
    ]


def test_vtt_without_hours_comments_styles_names_and_tags():
    assert rows_of(VTT, "vtt") == [
        Narration("v", 0, 0, 1.0, 2.5, "Hello & welcome"),
        Narration("v", 0, 1, 3600.0, 3601.0, "Bye"),
    ]


def test_vtt_word_times_are_no_timing_lines():
    text = "WEBVTT\n\n00:01.000 --> 00:02.000\none<00:00:01.300> two<00:00:01.600> three\n"
    assert [row.text for row in rows_of(text, "vtt")] == ["one two three"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_newlines_and_byte_order_marks_of_all_kinds(newline, encoding):
    rows = rows_of(SRT.replace("Hello", "caf\u00e9").replace("\n", newline).encode(encoding))
    assert [row.text for row in rows] == ["caf\u00e9 there", "Bye"]


def test_vtt_hours_of_no_digits_cost_only_their_cue():
    rows = rows_of("WEBVTT\n\n:00:01.000 --> :00:02.000\none\n\n00:03.000 --> 00:04.000\ntwo\n", "vtt")
    assert [(row.position, row.reason[:23]) for row in rows[:1]] == [("line 3", "the cue can't be read (")]
    assert rows[1].text == "two"


def test_a_declared_encoding():
    assert rows_of(SRT.replace("Bye", "caf\u00e9").encode("cp1252"), encoding="cp1252")[1].text == "caf\u00e9"


def test_bytes_of_another_encoding_cost_only_their_cue():
    rows = rows_of(SRT.replace("Hello", "caf\u00e9").encode("cp1252"))
    assert isinstance(rows[0], BadRow)
    assert (rows[0].reason, rows[0].position, rows[0].uid) == ("the bytes are not UTF-8", "line 2", "v")
    assert rows[1].text == "Bye"


def test_a_text_of_digits_is_not_the_next_number():
    text = "1\n00:00:01,000 --> 00:00:02,000\nanswer\n42\n\n2\n00:00:03,000 --> 00:00:04,000\n42\n"
    assert [row.text for row in rows_of(text)] == ["answer 42", "42"]


def test_a_blank_line_inside_an_srt_cue_does_not_end_it():
    text = "1\n00:00:01,000 --> 00:00:02,000\none\n\ntwo\n\n2\n00:00:03,000 --> 00:00:04,000\nthree\n"
    assert [row.text for row in rows_of(text)] == ["one two", "three"]


@pytest.mark.parametrize(
    ("cue", "reason"),
    [
        ("00:01 --> 00:02\ntext", "the times of the cue can't be read"),
        ("soon --> later\ntext", "the times of the cue can't be read"),
        ("00:00:03,000 --> 00:00:02,000\ntext", "the end is before the start (3 s)"),
        ("00:00:03,000 --> 00:00:04,000\n<i></i>", "there is no text"),
        ("00:00:03,000 --> 00:00:04,000\na\0b", "the text contains a NUL character"),
        ("00:61:30,000 --> 00:61:40,000\na", "a time of the cue has more than 59 minutes or seconds; write the hours"),
        ("00:00:61,000 --> 00:01:40,000\na", "a time of the cue has more than 59 minutes or seconds; write the hours"),
        ("00:00:03,000 --> 00:00:04,000\n00:00:01,000 to 00:00:02,000", "the times of the cue can't be read"),
    ],
)
def test_a_malformed_cue_costs_only_itself_and_names_its_line(cue, reason):
    rows = rows_of(f"{SRT}\n3\n{cue}\n\n4\n00:02:00,000 --> 00:02:01,000\nend\n")
    assert [row.idx for row in rows if isinstance(row, Narration)] == [0, 1, 3]
    assert (rows[2].reason, rows[2].position) == (reason, "line 11")


def test_minutes_of_vtt_end_at_59():
    (row,) = rows_of("WEBVTT\n\n61:30.000 --> 61:35.000 line:63%\na\n", "vtt")
    assert (row.reason[:32], row.position) == ("a time of the cue has more than ", "line 3")
    assert [row.start_s for row in rows_of("WEBVTT\n\n1:01:30.000 --> 1:01:35.000\na\n", "vtt")] == [3690.0]


@pytest.mark.parametrize("data", [b"", b"no subtitles\n"])
def test_a_file_without_cues_is_a_bad_row(data):
    (row,) = rows_of(data)
    assert row.reason == "there is no cue ('-->') in the file"


def test_a_file_that_is_too_large_is_not_read(monkeypatch):
    monkeypatch.setattr(subtitles, "MAX_BYTES", 10)
    (row,) = rows_of(SRT)
    assert row.reason == "the file is too large for subtitles"


def test_two_byte_encodings_that_break_are_a_bad_row():
    (row,) = rows_of(SRT.encode("utf-16-le") + b"x", encoding="utf-16-le")
    assert "from byte" in row.reason


def test_the_uid_is_the_files_name(tmp_path):
    path = tmp_path / "P01_cafe\u0301.srt"
    path.write_text(SRT)
    assert {row.uid for row in read_subtitles(path, "srt")} == {"P01_caf\u00e9"}


def test_an_open_file_needs_a_uid_and_an_encoding_must_exist():
    with pytest.raises(ValueError, match="need a uid"):
        list(read_subtitles(io.BytesIO(b""), "srt"))
    with pytest.raises(SpecError, match="'latin-99'"):
        rows_of(SRT, encoding="latin-99")


@pytest.mark.parametrize("format_", ["srt", "vtt"])
@pytest.mark.parametrize("pattern", ["{\\", "{", "<a", "<", "< ", "<i", "\\N{", "<1", "&#1", "a ", "{}<a>", "é"])
def test_cues_of_repeated_signs_are_read_in_the_time_of_their_length(pattern, format_):
    """A hundred times more than a cue may have; the square of either length would keep this test for hours."""
    most = subtitles.MAX_TEXT - 100
    text = (pattern * most)[:most]
    point = "." if format_ == "vtt" else ","
    cues = [f"00:00:{number:02d}{point}000 --> 00:01:00{point}000\n{text}\n" for number in range(20)]
    rows = rows_of("WEBVTT\n\n" * (format_ == "vtt") + "\n".join(cues), format_)
    assert len(rows) == 20


def test_a_cue_of_50_megabytes_costs_only_itself():
    rows = rows_of(SRT.replace("Hello", "x" * 50_000_000))
    assert isinstance(rows[0], BadRow)
    assert "characters, more than 131072" in rows[0].reason
    assert rows[1].text == "Bye"


def test_spaces_between_a_bracket_and_no_tag_are_quick():
    rows = rows_of(SRT.replace("Hello", "a <" + " " * 100_000 + "3>"))
    assert rows[0].text == "a < 3> there"


def test_more_cues_than_a_day_has_are_refused_at_once():
    (row,) = rows_of("-->\n" * (subtitles.MAX_CUES + 1))
    assert row.reason == "the file has 200001 cues, more than 200000"


def test_a_character_reference_of_thousands_of_digits_is_a_bad_row():
    rows = rows_of(VTT.replace("&amp;", "&#" + "1" * 5000 + ";"), "vtt")
    assert "thousands of digits" in rows[0].reason
    assert rows[1].text == "Bye"


@given(st.text(alphabet="<>{}/\\ nNhaib13\n&;", max_size=60))
def test_texts_are_those_that_pysubs2_gives(text):
    """What is done for speed changes no text."""
    document = f"00:00:01,000 --> 00:00:02,500\n{text}"
    body = "\n".join(line for line in text.split("\n") if line.strip())
    (event,) = pysubs2.SSAFile.from_string(f"00:00:01,000 --> 00:00:02,500\n{body}\n\n1\n", format_="srt").events
    (row,) = rows_of(document)
    wanted = " ".join(event.plaintext.split())
    assert (row.text if isinstance(row, Narration) else "") == wanted
