"What a stranger installs: archives, metadata, the shipped weights, the command, and torch with a torchvision that does not fit"
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_string

import pytest
from conftest import ROOT

SOURCES = ("settings.ini", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "NOTICE", "protolab")


def settings():
    parser = ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "sdist, and the wheel made from that sdist, as they would be uploaded"
    src = tmp_path_factory.mktemp("src")
    for name in SOURCES:
        if (ROOT/name).is_dir(): shutil.copytree(ROOT/name, src/name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT/name).exists(): shutil.copy(ROOT/name, src/name)
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "."], cwd=src, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return src/"dist"


@pytest.fixture(scope="module")
def wheel(built): return zipfile.ZipFile(next(built.glob("*.whl")))


def weights(): return {f"protolab/weights/{p.name}" for p in (ROOT/"protolab"/"weights").glob("*")}


def test_the_sdist_is_whole(built):
    names = {n.split("/", 1)[-1] for n in tarfile.open(next(built.glob("*.tar.gz"))).getnames()}
    assert {"settings.ini", "setup.py", "README.md", "LICENSE", "NOTICE", *weights()} <= names


def test_the_wheel_holds_the_modules_and_the_weights(wheel):
    modules = {f"protolab/{p.name}" for p in (ROOT/"protolab").glob("*.py")}
    assert "protolab/weights/lite0_5.safetensors" in weights()
    assert modules | weights() <= set(wheel.namelist())


def test_metadata(wheel):
    cfg, info = settings(), wheel.read(next(n for n in wheel.namelist() if n.endswith("dist-info/METADATA"))).decode()
    meta = message_from_string(info)
    assert (meta["Name"], meta["Version"], meta["Summary"]) == ("protolab", cfg["version"], cfg["description"])
    assert set(meta["Requires-Python"].split(",")) == {">=3.10", "<3.14"}
    assert {r.split(";")[0].replace(" ", "") for r in meta.get_all("Requires-Dist") if "extra" not in r} == set(cfg["requirements"].split())
    assert "protolab = protolab.cli:main" in wheel.read(next(n for n in wheel.namelist() if n.endswith("entry_points.txt"))).decode()


def test_version():
    import protolab
    assert protolab.__version__ == settings()["version"]


def test_the_wheel_works_by_itself(built, tmp_path):
    "Unpacked elsewhere, the package finds its weights"
    zipfile.ZipFile(next(built.glob("*.whl"))).extractall(tmp_path)
    source = "import protolab; from protolab.backbone import make_backbone; print(protolab.__file__, make_backbone('lite0').channels)"
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path/"protolab"/"__init__.py"), "96"], done.stderr


# -- the command --------------------------------------------------------------------------------------------------------------

SCRIPT = shutil.which("protolab", path=os.path.dirname(sys.executable))
needs_command = pytest.mark.skipif(not (ROOT/"protolab"/"cli.py").exists(), reason="the command is not built yet")


def cpu_seconds(command):
    "Processor time of one run, which does not mind a busy machine"
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@needs_command
def test_help_is_quick(): assert statistics.median(cpu_seconds([SCRIPT, "--help"]) for _ in range(5)) < 0.2


@needs_command
def test_help_loads_nothing_heavy():
    "Seen in the list of all that the installed command imports"
    done = subprocess.run([sys.executable, "-X", "importtime", SCRIPT, "--help"], capture_output=True, text=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "walk" in done.stdout and done.returncode == 0
    assert not imported & {"torch", "numpy", "matplotlib", "PIL"}


# -- torch and torchvision ----------------------------------------------------------------------------------------------------

def test_a_torchvision_that_does_not_fit(tmp_path):
    "One built for another torch fails inside its own import; the sentence says what to install"
    (tmp_path/"torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", "from protolab.core import import_torchvision as f; f()"], env=env, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert "do not fit together (operator torchvision::nms does not exist)" in last
    assert "pip install --force-reinstall torch torchvision" in last
