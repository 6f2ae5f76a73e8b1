import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cliploom.schemas.errors import SpecError
from cliploom.schemas.narrations import BadRow, BrokenFileError, Columns, Narration
from cliploom.transforms.narrations import tabular
from cliploom.transforms.narrations.rows import RowError, shown
from cliploom.transforms.narrations.tabular import read_csv, read_jsonl, read_tgif
from cliploom.transforms.narrations.uids import UrlRule, read_uid_list, uid_by_regex, uid_of_url

GIF = "https://38.media.tumblr.com/9f6c25cc350f12aa74a7dc386a5c4985/tumblr_mevmyaKtDf1rgvhr8o1_500.gif"
PLAIN = Columns()
MAPPED = Columns(uid="video", text="caption", start="t", end="until", pass_="round", annotation_uid="id")


def good(rows):
    return [row for row in rows if isinstance(row, Narration)]


def bad(rows):
    return [row for row in rows if isinstance(row, BadRow)]


def csv_rows(data, columns=PLAIN, **options):
    return list(read_csv(io.BytesIO(data.encode() if isinstance(data, str) else data), columns, **options))


def jsonl_rows(*lines, columns=PLAIN, **options):
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    return list(read_jsonl(io.BytesIO(data), columns, **options))


def tgif_rows(data, **options):
    return list(read_tgif(io.BytesIO(data.encode() if isinstance(data, str) else data), **options))


def test_csv_maps_its_columns():
    text = 'video,t,until,caption,round,id,extra\nv,1.5,2,"one, two",2,a,x\nv,3,4,"a\nb",2,,\n'
    assert csv_rows(text, MAPPED) == [
        Narration("v", 2, 0, 1.5, 2.0, "one, two", "a"),
        Narration("v", 2, 1, 3.0, 4.0, "a\nb", ""),
    ]


def test_csv_with_another_delimiter_and_encoding():
    rows = csv_rows("uid\tstart_s\ttext\nv\t1\tcaf\u00e9\n".encode("cp1252"), delimiter="\t", encoding="cp1252")
    assert rows[0].text == "caf\u00e9"


def test_csv_without_a_start_column_has_texts_about_whole_videos():
    assert csv_rows("uid,text\nv,hello\n", Columns(start="")) == [Narration("v", 0, 0, None, None, "hello")]


def test_addresses_in_csv_and_jsonl_become_uids_by_the_declared_rule():
    columns = Columns(uid="url", start="")
    rows = csv_rows(f"url,text\n{GIF},a\nx,b\n", columns, url_rule="stem")
    rows += jsonl_rows({"url": GIF, "text": "a"}, {"url": 5, "text": "b"}, columns=columns, url_rule="stem")
    assert [row.uid for row in good(rows)] == ["tumblr_mevmyaKtDf1rgvhr8o1_500"] * 2
    assert [row.reason for row in bad(rows)] == ["not an http or https address", "there is no uid"]


def test_csv_passes_over_a_byte_order_mark_and_blank_lines():
    assert len(csv_rows("\ufeffuid,start_s,text\r\n\r\nv,1,a\r\n\r\n")) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("v,1", "the row has 2 columns where the header has 3"),
        ("v,1,a,b", "the row has 4 columns where the header has 3"),
        (",1,a", "there is no uid"),
        ("v,,a", "there is no start_s"),
        ("v,61:30,a", "the start_s has more than 59 minutes or seconds; write the hours, such as 1:01:30"),
        ("v,0:00:75,a", "the start_s has more than 59 minutes or seconds; write the hours, such as 1:01:30"),
        ("v,1:00:00:12,a", "the start_s is not a number and not a time such as 00:01:30.500"),
        ("v,a:30,a", "the start_s is not a number and not a time such as 00:01:30.500"),
        ("v,1_0:30,a", "the start_s is not a number and not a time such as 00:01:30.500"),
        ("v\0,1,a", "the uid contains a NUL character"),
        ("v,1,a\0b", "the text contains a NUL character"),
        ('v,"1,234,5",a', "the start_s is not a number"),
        ('v,"1,234",a', "the start_s may have a comma for the point or for thousands; write it with a point"),
        ("v,1_0,a", "the start_s is not a number"),
        ("v,nan,a", "the start_s is not finite"),
        ("v,-3,a", "the time is more than 2 s before the video"),
        ("v,1, ", "there is no text"),
        ('v,1,"a"b', "not a row of CSV"),
    ],
)
def test_a_bad_csv_row_costs_only_itself_and_names_its_line(line, reason):
    rows = csv_rows(f"uid,start_s,text\nv,0,x\n{line}\nv,2,y\n")
    assert [row.text for row in good(rows)] == ["x", "y"]
    (failure,) = bad(rows)
    assert (failure.reason, failure.position) == (reason, "line 3")


def test_a_bad_row_keeps_its_number():
    rows = csv_rows("uid,start_s,text\nv,0,x\nv,1,\nv,2,y\n")
    assert [row.idx for row in good(rows)] == [0, 2]
    assert bad(rows)[0].uid == "v"


def test_an_end_before_its_start_is_bad():
    rows = csv_rows("video,t,until,caption,round,id\nv,5,4,a,0,\n", MAPPED)
    assert bad(rows)[0].reason == "the end is before the start (5 s)"


@pytest.mark.parametrize("value", ["-1", "x", "1.5", ""])
def test_a_pass_that_is_no_number_is_bad(value):
    rows = csv_rows(f"video,t,until,caption,round,id\nv,1,4,a,{value},\n", MAPPED)
    assert bad(rows)[0].reason == "the round is not a whole number from 0"


def test_broken_utf8_in_csv_costs_only_its_row():
    rows = csv_rows(b"uid,start_s,text\nv,0,x\nv,1,caf\xe9\nv,2,y\n")
    assert [row.idx for row in good(rows)] == [0, 2]
    assert (bad(rows)[0].reason, bad(rows)[0].position) == ("the bytes are not UTF-8", "line 3")


def test_an_unclosed_quote_names_the_lines_that_it_swallowed():
    rows = csv_rows('uid,start_s,text\nv,0,x\nv,1,"open\nv,2,y\nv,3,z\n')
    assert len(good(rows)) == 1
    assert bad(rows)[0].position == "lines 3 to 5"


def test_a_csv_field_beyond_the_limit_is_a_bad_row_and_reading_goes_on():
    rows = csv_rows("uid,start_s,text\nv,1," + "x" * 200_000 + "\nv,2,y\n")
    assert [row.text for row in good(rows)] == ["y"]
    assert "field larger" in bad(rows)[0].value


def test_a_missing_column_is_a_spec_error_with_the_nearest_name():
    with pytest.raises(SpecError, match="no column 'start_s'; did you mean 'starts_s'"):
        csv_rows("uid,starts_s,text\n")
    with pytest.raises(SpecError, match="2 columns named 'uid'"):
        csv_rows("uid,uid,start_s,text\n")
    with pytest.raises(SpecError, match="the first line is not a row of CSV"):
        csv_rows('"uid"x,start_s,text\n')
    with pytest.raises(SpecError, match="no column 'uid'; known: none"):
        csv_rows("")


def test_an_unknown_encoding_is_a_spec_error():
    with pytest.raises(SpecError, match="'utf-99' is not an encoding"):
        csv_rows("uid,start_s,text\n", encoding="utf-99")


def test_a_csv_that_is_not_its_two_byte_encoding_names_the_byte():
    data = "uid,start_s,text\nv,1,a\n".encode("utf-16") + b"x"
    with pytest.raises(BrokenFileError) as caught:
        csv_rows(data, encoding="utf-16")
    assert caught.value.byte == len(data) - 1


def test_a_file_that_the_caller_opened_stays_open():
    file = io.BytesIO(b"uid,start_s,text\nv,1,a\n")
    list(read_csv(file))
    assert not file.closed


def test_jsonl_maps_its_keys():
    row = {"video": "v", "t": 1, "until": 2.5, "caption": "a", "round": 1, "id": "x", "more": [1]}
    assert jsonl_rows(row, columns=MAPPED) == [Narration("v", 1, 0, 1.0, 2.5, "a", "x")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"uid": "v"', "not JSON at column 12 (Expecting ',' delimiter)"),
        (b"[1]", "the line is not a JSON object"),
        (b"[" * 100_000, "not readable JSON (RecursionError)"),
        (b'{"uid": true, "start_s": 1, "text": "a"}', "the uid is not text"),
        (
            b'{"uid": 7.5, "start_s": 1, "text": "a"}',
            "the uid is a number that cannot be an id; write it as text, in quotes",
        ),
        (b'{"uid": " ", "start_s": 1, "text": "a"}', "there is no uid"),
        (b'{"uid": "v", "start_s": "soon", "text": "a"}', "the start_s is not a number"),
        (b'{"uid": "v", "start_s": [1], "text": "a"}', "the start_s is not a number"),
        (b'{"uid": "v", "start_s": 1, "text": "a\\u0000"}', "the text contains a NUL character"),
        (b'{"uid": "v", "start_s": NaN, "text": "a"}', "the start_s is not finite"),
        (b'{"uid": "v", "start_s": 1}', "there is no text"),
        (b'{"uid": "v", "start_s": 1, "text": "\\ud83d"}', "the bytes are not UTF-8"),
        (b'{"uid": "v", "start_s": 1, "text": "\xff"}', "the bytes are not UTF-8 from byte 36 of the line on"),
    ],
)
def test_a_bad_jsonl_line_costs_only_itself(line, reason):
    fine = {"uid": "v", "start_s": 0, "text": "x"}
    rows = jsonl_rows(fine, line, b"", fine)
    assert len(good(rows)) == 2
    assert (bad(rows)[0].reason, bad(rows)[0].position) == (reason, "line 2")


def test_jsonl_takes_whole_numbers_as_uids_and_texts_as_numbers():
    columns = Columns(end="end", pass_="round", annotation_uid="id")
    values = [
        {"uid": 42, "start_s": "1.5", "end": "0:02", "round": "1", "id": 9},
        {"uid": 42.0, "start_s": "00:00:03,25", "end": 4, "round": 1.0},
        {"uid": " 0042 ", "start_s": 1, "end": 2, "round": 0},
    ]
    rows = jsonl_rows(*({"text": "a"} | value for value in values), columns=columns)
    assert rows == [
        Narration("42", 1, 0, 1.5, 2.0, "a", "9"),
        Narration("42", 1, 1, 3.25, 4.0, "a"),
        Narration("0042", 0, 0, 1.0, 2.0, "a"),
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1:30", 90),
        ("01:30.5", 90.5),
        ("00:01:30,250", 90.25),
        ("1:01:30", 3690),
        (" 100:00:00 ", 360_000),
        ("0 days 00:00:01.089000", 1.089),
        ("1 day, 0:00:01", 86_401),
        ("-0:01.5", -1.5),
        ("0:09.", 9),
        ("1,5", 1.5),
        ("0,250", 0.25),
        ("1234,567", 1234.567),
        ("1e1", 10),
    ],
)
def test_times_of_a_csv_may_have_hours_minutes_and_a_comma(text, seconds):
    assert csv_rows(f'uid,start_s,text\nv,"{text}",a\n') == [Narration("v", 0, 0, seconds, None, "a")]


def test_the_published_annotations_of_epic_kitchens_are_read_as_they_are():
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
        "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
    )
    text = (
        "P01_11_0,P01,P01_11,00:00:01.089,00:00:00.00,00:00:03.37,0,202,take plate,take,0,plate,2,['plate'],[2]\n"
        'P01_11_1,P01,P01_11,00:00:02.629,01:00:02.930,01:00:04.55,175,273,"put cup, then jar",put,1,cup,4,'
        "\"['cup', 'jar']\",\"[4, 9]\"\n"
    )
    columns = Columns("video_id", "narration", "start_timestamp", "stop_timestamp", annotation_uid="narration_id")
    assert csv_rows(header + text, columns) == [
        Narration("P01_11", 0, 0, 0.0, 3.37, "take plate", "P01_11_0"),
        Narration("P01_11", 0, 1, 3602.93, 3604.55, "put cup, then jar", "P01_11_1"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "uid;start_s;text\n0042;1,5;a, b\n",
        "uid\tstart_s\ttext\n0042\t1.5\ta, b\n",
        ' uid , start_s,text \r\n 0042 ,1.5,"a, b"\r\n,,\r\n',
        'uid, start_s, text\n0042, 1.5, "a, b"\n',
        "\n\ufeffuid;start_s;text\n\n0042;1.5;a, b\n;;\n",
    ],
)
def test_delimiters_and_blanks_around_cells_are_those_of_the_header(text):
    assert csv_rows(text) == [Narration("0042", 0, 0, 1.5, None, "a, b")]


def test_csv_with_the_byte_order_mark_of_utf_16_needs_no_encoding():
    assert csv_rows("uid\tstart_s\ttext\nv\t1\tcaf\u00e9\n".encode("utf-16"))[0].text == "caf\u00e9"


def test_a_line_beyond_the_limit_is_skipped(monkeypatch):
    monkeypatch.setattr(tabular, "MAX_LINE_BYTES", 64)
    fine = {"uid": "v", "start_s": 0, "text": "x"}
    rows = jsonl_rows(fine, b"x" * 1000, fine)
    assert len(good(rows)) == 2
    assert bad(rows)[0].position == "line 2"


def test_tgif_counts_the_captions_of_one_address():
    uid = "38.media.tumblr.com/9f6c25cc350f12aa74a7dc386a5c4985/tumblr_mevmyaKtDf1rgvhr8o1_500"
    rows = tgif_rows(f'{GIF}\ta man is glaring.\n{GIF}\tsays "hi, there"\r\n')
    assert rows == [
        Narration(uid, 0, 0, None, None, "a man is glaring."),
        Narration(uid, 0, 1, None, None, 'says "hi, there"'),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (GIF.encode(), "there is no tab between URL and sentence"),
        (b"tumblr_1.gif\ta cat", "not an http or https address"),
        (GIF.encode() + b"\t ", "there is no text"),
        (GIF.encode() + b"\tcaf\xe9", f"the bytes are not UTF-8 from byte {len(GIF) + 4} of the line on"),
    ],
)
def test_a_bad_tgif_line_costs_only_itself(line, reason):
    fine = f"{GIF}\ta cat".encode()
    rows = tgif_rows(b"\n".join([fine, line, b"", fine]))
    assert len(good(rows)) == 2
    assert (bad(rows)[0].reason, bad(rows)[0].position) == (reason, "line 2")


@pytest.mark.parametrize(
    ("url", "rule", "uid"),
    [
        (GIF, "stem", "tumblr_mevmyaKtDf1rgvhr8o1_500"),
        ("http://h.org/a/b.gif?s=1", "file", "h.org/a/b.gif?s=1"),
        (GIF, r"(tumblr_\w+?)_", "tumblr_mevmyaKtDf1rgvhr8o1"),
        (GIF, r"/(?P<hash>\w{32})/(?P<uid>\w+)", "tumblr_mevmyaKtDf1rgvhr8o1_500"),
        ("http://H.org:8080/a%20b/c.tar.mp4?v=1#t=3", "path", "h.org/a b/c.tar?v=1"),
        ("http://h.org/", "path", "h.org/"),
        ("http://h.org/cafe%CC%81.gif", "path", "h.org/caf\u00e9"),
    ],
)
def test_the_uid_of_an_address(url, rule, uid):
    assert uid_of_url(url, rule) == uid


@pytest.mark.parametrize("url", ["", "a.gif", "ftp://h/a.gif", "http://", "http://[::1/a", "http://h/a b"])
def test_what_is_no_address_has_no_uid(url):
    with pytest.raises(RowError, match="not an http or https address"):
        uid_of_url(url)


def test_a_regex_rule_that_finds_nothing_or_is_none_says_so():
    with pytest.raises(RowError, match="finds nothing"):
        uid_by_regex("a", "(b)")
    with pytest.raises(SpecError, match="not a regular expression"):
        uid_by_regex("a", "(b")
    with pytest.raises(SpecError, match="has no group"):
        uid_by_regex("a", "b")


def test_uid_lists_hold_uids_or_addresses(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(f"\ufeffa\n# comment\n\n b \n{GIF}\n", encoding="utf-8")
    assert read_uid_list(path) == {"a", "b", GIF}
    with pytest.raises(SpecError, match="line 1: not an http"):
        read_uid_list(path, "stem")
    assert read_uid_list(io.BytesIO(GIF.encode()), "stem") == {"tumblr_mevmyaKtDf1rgvhr8o1_500"}


@given(st.text() | st.binary())
def test_shown_values_are_short_and_printable(value):
    text = shown(value)
    assert len(text) <= 80
    assert text.encode()


def test_secrets_in_addresses_do_not_become_uids() -> None:
    table = b"https://h/a.gif?token=sesame\ta cat\nhttps://h/b.gif?code=1\ta dog\nhttps://me:sesame@h/c.gif\ta cow\n"
    first, second, third = read_tgif(io.BytesIO(table))
    assert isinstance(first, BadRow)
    assert "the parameter 'token' sounds like a secret" in first.message
    assert "sesame" not in first.message
    assert isinstance(second, BadRow)
    assert isinstance(third, Narration)
    assert third.uid == "h/c"
    assert [row.uid for row in read_tgif(io.BytesIO(table), url_rule="stem")] == ["a", "b", "c"]
    (untabbed,) = read_tgif(io.BytesIO(b"https://h/a.gif?token=sesame a cat\n"))
    assert "sesame" not in untabbed.message + untabbed.value
    _, allowed, _ = read_tgif(io.BytesIO(table), url_rule=UrlRule("path", frozenset({"code"})))
    assert allowed.uid == "h/b?code=1"


def test_lines_of_megabytes_cost_only_their_row(monkeypatch):
    monkeypatch.setattr(tabular, "MAX_LINE_BYTES", 1000)
    data = "uid,text\na,one\n" + "b," + "x" * 5000 + "\nc,three\n"
    rows = list(read_csv(io.BytesIO(data.encode()), Columns(start="")))
    assert [row.text for row in rows if isinstance(row, Narration)] == ["one", "three"]
    (bad,) = (row for row in rows if isinstance(row, BadRow))
    assert (bad.position, bad.reason) == ("line 3", "the line is longer than 1000 characters")


@pytest.mark.parametrize("deep", ["[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "1" * 5000])
def test_jsonl_that_is_nested_deep_costs_only_its_row(deep):
    data = '{"uid": ' + deep + ', "text": "one"}\n{"uid": "b", "text": "two"}\n'
    rows = list(read_jsonl(io.BytesIO(data.encode()), Columns(start="")))
    assert [type(row) for row in rows] == [BadRow, Narration]
