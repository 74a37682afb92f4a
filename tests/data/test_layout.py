"""What levels of folders are taken for: each case is a list of the folders that hold images."""

from __future__ import annotations

import pytest

from fedlens.data.layout import read_layout
from fedlens.errors import DataError


def paths(text):
    """ "a/b c" → {("a", "b"), ("c",)}; {x,y} is written out."""
    found = {""}
    for word in text.split():
        found |= set(_spread(word))
    return {tuple(path.split("/")) for path in found if path}


def _spread(word):
    start, brace, rest = word.partition("{")
    if not brace:
        return [word]
    inner, _, end = rest.partition("}")
    return [start + one + tail for one in inner.split(",") for tail in _spread(end)]


@pytest.mark.parametrize(
    ("folders", "levels"),
    [
        ("cat dog", "class"),
        ("cat dog dog/more", "class"),
        ("cat dog/{p1,p2} fox/{p1,p2}", "class"),
        ("{cat,dog}/images", "class"),
        ("{cat,dog,fox} fox/{a,b} cat/{a,b}", "class"),
        ("train bus", "class"),
        ("PHOTOS/{cat,dog}", "- class"),
        ("{train,val,test}/{cat,dog}", "split class"),
        ("{Training,Testing}/{cat,dog}", "split class"),
        ("{TRAIN,dev,Test}/{cat,dog}", "split class"),
        ("{01_train,02_valid,03_test}/{cat,dog}", "split class"),
        ("{train2017,val2017}/{cat,dog}", "split class"),
        ("{trainset,testset}/{cat,dog}", "split class"),
        ("{TrainData,TestData}/{cat,dog}", "split class"),
        ("{training_set,test_set}/{cat,dog}", "split class"),
        ("{训练集,测试集}/{猫,狗}", "split class"),
        ("{Entrenamiento,Prueba}/{cat,dog}", "split class"),
        ("{treino,validação,teste}/{cat,dog}", "split class"),
        ("{Entraînement,Test}/{cat,dog}", "split class"),
        ("{ОБУЧЕНИЕ,тест}/{cat,dog}", "split class"),
        ("{学習,検証,テスト}/{cat,dog}", "split class"),
        ("{tr,va,te}/{cat,dog}", "split class"),
        ("{TR,test}/{cat,dog}", "split class"),
        ("{tr,de}/{cat,dog}", "client class"),  # countries
        ("{te,ts}/{cat,dog}", "client class"),
        ("train/{cat,dog}", "split class"),
        ("{train,test}/{cat,dog} train", "split class"),
        ("train/{cat,dog} test", "split class"),
        ("{train,test}/{cat,dog}/{p1,p2}/x {train,test}/{cat,dog}", "split class"),
        ("{train,test}/images/{cat,dog}", "split - class"),
        ("X/{train,test}/{cat,dog}", "- split class"),
        ("train/seg_train/{cat,dog} test/seg_test/{cat,dog}", "split - class"),
        ("seg_train/seg_train/{cat,dog} seg_test/seg_test/{cat,dog}", "split - class"),
        ("training_set/training_set/{cat,dog} test_set/test_set/{cat,dog}", "split - class"),
        ("{cat,dog}/{train,test}", "class split"),
        ("{cat,dog}/{train,test} cat", "class split"),
        ("{a,b}/{cat,dog}", "client class"),
        ("{a,b}/{cat,dog} a/cat/more", "client class"),
        ("a/{cat,dog} b/{cat,fox} test/{cat,dog,fox}", "client class"),
        ("client1/cat client2/dog", "client class"),
        ("{site_a,site_b}/{cat,dog}/2020", "client class"),
        ("{cat,dog}/{client1,client2}", "class client"),
        ("{train,test}/{a,b}/{cat,dog}", "split client class"),
        ("{a,b}/{train,test}/{cat,dog}", "client split class"),
        ("{a,b}/{train,test}/{cat,dog} c/train/{cat,dog}", "client split class"),
        ("{a,b}/{cat,dog}/{train,test}", "client class split"),
        ("{train,test}/{cat,dog}/{client1,client2}", "split class client"),
        ("{cat,dog}/{train,test}/{client1,client2}", "class split client"),
        ("{cat,dog}/{client1,client2}/{train,test}", "class client split"),
        ("{train,test}/{猫,狗}/{client1,client2}", "split class client"),
    ],
)
def test_levels(folders, levels):
    assert read_layout(paths(folders)).levels == tuple(levels.split())


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("", "outside class folders"),
        ("train test", "training images lie outside class folders"),
        ("{val,test}/{cat,dog}", "none as the training split"),
        ("test/{cat,dog}", "none as the training split"),
        ("{train,Training,test}/{cat,dog}", "Training, train are all named as one split, train"),
        ("{train,val,dev}/{cat,dog}", "dev, val are all named as one split, val"),
        (
            "{train,test,chest}/{cat,dog} chest/{train,test}/{cat,dog}",
            "lie twice.*chest, which holds test, train again",
        ),
        ("{train,test,extra}/{cat,dog}", "test, train, named as splits, beside extra"),
        ("seg_train/{cat,dog} seg_test/{cat,dog} seg_pred", "seg_test, seg_train, named as splits, beside seg_pred"),
        ("train/{cat,dog} extra/{cat,dog}", "train, named as a split, beside extra"),
        ("cat dog test", "test, named as a split, beside cat, dog"),
        ("cat dog test/{cat,dog}", "test, named as a split, beside cat, dog"),
        ("valid invalid", "valid, named as a split, beside invalid: .*classes.json"),
        ("{a,b}/{cat,dog,test}", "test in [ab], named as a split, beside cat, dog"),
        ("{cat,dog} {cat,dog}/test", "none as the training split"),
        ("train/cat train/dog/{x,test}", "test in dog, named as a split, beside x"),
        ("{cat,dog}/{train,test} fox", "other folders are divided into test, train, and fox is not"),
        ("{a,b}/{train,test}/{cat,dog} c/{cat,dog}", "test, train in a: folders named as splits"),
        ("cat/{p1,p2} dog/{p3,p4}", "data.source to imagefolder for classes, to clients for clients"),
        ("cat/{2019,2020} dog/{2020,2021}", "data.source to imagefolder"),
        ("{cat,dog}/{patient1,patient2}", "data.source to imagefolder"),
        ("a/{cat,dog} b/{cat,fox} a", "data.source to imagefolder"),
        ("train/{cat,dog}/{batch1,batch2}", "data.source to imagefolder"),
        ("cup fork copy/{cup,fork}", "lie twice.*copy holds cup, fork"),
        ("{a,b}/{cat,dog} copy/{a,b}/{cat,dog}", "lie twice.*copy holds a, b"),
        ("{train,test}/{cat,dog} train/train/{cat,dog}", "named as a split|lie twice"),
    ],
)
def test_what_names_do_not_tell_is_refused(folders, message):
    with pytest.raises(DataError, match=message):
        read_layout(paths(folders))


@pytest.mark.parametrize(
    "folders",
    [
        "{images,masks}/{cat,dog}",
        "{color,grayscale,segmented}/{cat,dog}",
        "{Fold1,Fold2}/{cat,dog}",
        "{raw,processed}/{train,test}/{cat,dog}",
    ],
)
def test_versions_of_the_same_images_are_no_clients_unless_the_user_says_so(folders):
    with pytest.raises(DataError, match="probably versions of the same images"):
        read_layout(paths(folders))
    assert read_layout(paths(folders), clients=True).levels[0] == "client"


@pytest.mark.parametrize(
    ("folders", "clients", "levels"),
    [
        ("cat/{p1,p2} dog/{p3,p4}", False, "class"),
        ("cat/{p1,p2} dog/{p3,p4}", True, "client class"),
        ("{a,b}/{cat,dog}", False, "class"),
        ("client1/cat client2/dog", False, "class"),
        ("north/cat south/cat", True, "client class"),
        ("north/{cat,dog}", True, "client class"),
        ("{cat,dog}/{client1,client2}", True, "class client"),
        ("train/{a,b}/{cat,dog}", False, "split class"),
        ("{a,b}/{train,test}/{cat,dog}", True, "client split class"),
        ("a/{cat,dog} b/{cat,fox} a", True, "client class"),
        ("a/{cat,dog} b/{cat,fox} a", False, "class"),
        ("X/{a,b}/{cat,dog}", True, "- client class"),
        ("{cat,dog}", True, "class"),
    ],
)
def test_the_user_says_what_names_do_not(folders, clients, levels):
    assert read_layout(paths(folders), clients=clients).levels == tuple(levels.split())


@pytest.mark.parametrize(
    ("folders", "classes", "levels"),
    [
        ("client1/cat client2/dog", ["cat", "dog"], "client class"),
        ("a/cat b/dog", ["dog", "cat", "fox"], "client class"),
        ("valid invalid", ["valid", "invalid"], "class"),
        ("{train,test}/{valid,invalid}", ["valid", "invalid"], "split class"),
        ("cat/p1 dog/p2", ["cat", "dog"], "class"),
    ],
)
def test_known_classes_decide(folders, classes, levels):
    assert read_layout(paths(folders), classes=classes).levels == tuple(levels.split())


@pytest.mark.parametrize(
    ("folders", "names", "place"),
    [
        ("{Training,dev}/{cat,dog}", "dev/cat/more", ("val", "", "cat")),
        ("{a,b}/{train,test}/{cat,dog}", "b/test/dog", ("test", "b", "dog")),
        ("{a,b,Test}/{cat,dog}", "Test/dog", ("test", "", "dog")),
        ("{a,b,Test}/{cat,dog}", "a/dog", (None, "a", "dog")),
        ("{cat,dog}/{train,test}", "cat/train", ("train", "", "cat")),
        ("seg_train/seg_train/{cat,dog} seg_test/seg_test/{cat,dog}", "seg_test/seg_test/cat", ("test", "", "cat")),
        ("{train,test}/{cat,dog}", "train", None),
        ("{cat,dog}/{train,test}", "cat", None),
    ],
)
def test_place_of_a_folder(folders, names, place):
    assert read_layout(paths(folders)).place(tuple(names.split("/"))) == place
