from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.infer.lab.labels import LabelledFace, LabelledPicture, read_labels
from shared.errors import ErrorCode, PermanentError
from shared.models.precision import Condition
from tests.lab.toys import draw

FACE = LabelledFace(8, 12, 20, 24)
Write = Callable[[str, str], Path]

DLIB = """<?xml version='1.0' encoding='ISO-8859-1'?>
<?xml-stylesheet type='text/xsl' href='x.xsl'?>
<dataset><name>n</name><images>
 <image file='a.png' width='64' height='64'>
  <box top='12' left='8' width='20' height='24'><part name='00' x='9' y='13'/></box>
  <box top='1' left='2' width='3' height='4' ignore='1'/>
  <box top='30' left='30' width='9' height='9' occluded='1'/>
 </image><image file='b.png'/>
</images></dataset>"""

WIDER = """a.png
3
8 12 20 24 0 0 0 0 0 0
1 1 9 9 2 0 0 0 0 0
1 1 9 9 0 0 0 1 0 0
b.png
0
0 0 0 0 0 0 0 0 0 0
c/d.png
1
5 5 9 9 0 0 1 0 1 1
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a labels file beside some pictures."""
    (tmp_path / "c").mkdir()
    for name in ("a.png", "b.png", "c/d.png"):
        draw(tmp_path / name, [])

    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return make


def failure(path: Path, images: Path | None = None) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        read_labels(path, images)
    assert caught.value.message.count("\n") == 0
    return caught.value


def test_dlibs_xml_is_read(write: Write, tmp_path: Path) -> None:
    first, second = read_labels(write("set.xml", DLIB))
    assert first.file == tmp_path / "a.png"
    assert first.faces[0] == FACE
    assert first.faces[1].ignored
    assert first.faces[2].condition is Condition.OCCLUSION
    assert second.faces == ()


def test_wider_faces_text_is_read(write: Write) -> None:
    first, second, third = read_labels(write("set.txt", WIDER))
    assert first.faces[0] == FACE
    assert [each.condition for each in first.faces] == [None, Condition.MOTION_BLUR, None]
    assert [each.ignored for each in first.faces] == [False, False, True]
    assert second.faces == ()
    assert third.name == "c/d.png"
    assert third.faces[0].condition is Condition.OCCLUSION


def test_a_picture_without_faces_may_have_no_line_of_zeros(write: Write) -> None:
    labels = write("set.txt", "b.png\n0\na.png\n1\n8 12 20 24 0 0 0 0 0 0\n")
    assert [len(each.faces) for each in read_labels(labels)] == [0, 1]


def test_our_json_and_csv_say_the_same(write: Write, tmp_path: Path) -> None:
    faces = [
        {"x": 8, "y": 12, "w": 20, "h": 24},
        {"x": 1, "y": 2, "w": 3, "h": 4, "ignore": True, "condition": "profile"},
    ]
    pictures = [{"file": "a.png", "faces": faces}, {"file": "b.png", "faces": []}]
    by_json = read_labels(write("set.json", json.dumps({"pictures": pictures})))
    by_csv = read_labels(
        write("set.csv", "file,x,y,w,h,condition,ignore\na.png,8,12,20,24,,\n"
              "a.png,1,2,3,4,profile,yes\nb.png,,,,,,\n")
    )  # fmt: skip
    turned = LabelledFace(1, 2, 3, 4, True, Condition.PROFILE)
    assert by_json == [
        LabelledPicture("a.png", tmp_path / "a.png", (FACE, turned)),
        LabelledPicture("b.png", tmp_path / "b.png", ()),
    ]
    assert by_csv == by_json


def test_a_condition_may_be_named_for_a_whole_picture(write: Write) -> None:
    text = '{"pictures": [{"file": "a.png", "condition": "low_light", "faces": [{"x": 1, "y": 1, '
    (picture,) = read_labels(write("set.json", text + '"w": 2, "h": 2}]}]}'))
    assert picture.condition is Condition.LOW_LIGHT


@pytest.mark.parametrize(
    ("name", "text", "code", "says"),
    [
        ("set.xml", "<dataset", ErrorCode.SOURCE_UNREADABLE, "not XML"),
        ("set.xml", "<html/>", ErrorCode.SOURCE_UNREADABLE, "dlib"),
        ("set.xml", '<!DOCTYPE a [<!ENTITY b "c">]><dataset/>', ErrorCode.SOURCE_UNREADABLE,
         "entities"),
        ("set.xml", "<dataset><images/></dataset>", ErrorCode.SOURCE_EMPTY, "no picture"),
        ("set.xml", DLIB.replace("top='12'", "top='here'"), ErrorCode.SOURCE_UNREADABLE, "'here'"),
        ("set.xml", DLIB.replace("a.png", "z.png"), ErrorCode.SOURCE_MISSING, "--images"),
        ("set.xml", DLIB.replace("a.png", "../a.png"), ErrorCode.BAD_OPTION, "inside a folder"),
        ("set.xml", DLIB.replace("a.png", "/a.png"), ErrorCode.BAD_OPTION, "inside a folder"),
        ("set.xml", DLIB.replace("width='20'", "width='0'"), ErrorCode.BAD_OPTION, "no size"),
        ("set.xml", DLIB.replace("b.png", "a.png"), ErrorCode.BAD_OPTION, "twice"),
        ("set.txt", "a.png\nb.png\n", ErrorCode.SOURCE_UNREADABLE, "number of faces"),
        ("set.txt", "a.png\n2\n1 2 3 4\n", ErrorCode.SOURCE_UNREADABLE, "fewer faces"),
        ("set.txt", "a.png\n1\n1 2 3\n", ErrorCode.SOURCE_UNREADABLE, "3 numbers"),
        ("set.txt", "b.png\n0\n0 0 0 0\n", ErrorCode.SOURCE_EMPTY, "no face"),
        ("set.json", "[]", ErrorCode.SOURCE_UNREADABLE, "set.json"),
        ("set.json", '{"pictures": [{"file": 3}]}', ErrorCode.SOURCE_UNREADABLE, "pictures.0.file"),
        ("set.csv", "a,b\n1,2\n", ErrorCode.SOURCE_UNREADABLE,
         "lacks file, h, w, x, y; it must be file,x,y,w,h"),
        ("set.csv", "file,x,y,w,h\na.png,1,2\n", ErrorCode.SOURCE_UNREADABLE,
         "line 2 has nothing where a number"),
        ("set.csv", "file,x\n" + 200_000 * "a", ErrorCode.SOURCE_UNREADABLE, "set.csv"),
        ("set.csv", "file,x,y,w,h\na.png,1,2,nan,4\n", ErrorCode.SOURCE_UNREADABLE, "line 2"),
        ("set.csv", "file,x,y,w,h,condition\na.png,1,2,3,4,fog\n", ErrorCode.SOURCE_UNREADABLE,
         "'fog'"),
        ("set.yaml", "", ErrorCode.BAD_OPTION, ".xml, .json, .csv, .txt"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_set_is_said_in_a_sentence(
    write: Write, name: str, text: str, code: ErrorCode, says: str
) -> None:
    error = failure(write(name, text))
    assert error.code is code
    assert says in error.message


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    assert failure(tmp_path / "set.xml").code is ErrorCode.SOURCE_MISSING
