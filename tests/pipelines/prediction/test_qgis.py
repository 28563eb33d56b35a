"""The GeoPackage in QGIS (Debian's `python3-qgis`)."""

import subprocess

import pytest

from tests.pipelines.prediction.test_predict import run

SYSTEM_PYTHON = "/usr/bin/python3"
OPEN = """
import os, sys
from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsVectorLayer
from qgis.PyQt.QtCore import QSize

application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(sys.argv[1] + "|layername=predictions", "predictions", "ogr")
assert layer.isValid()
assert layer.renderer().type() == "graduatedSymbol"
assert layer.renderer().classAttribute() == '"height_predicted"'
assert len(layer.renderer().legendSymbolItems()) == 7
assert len(layer.listStylesInDatabase()[2]) == 3
settings = QgsMapSettings()
settings.setLayers([layer])
settings.setOutputSize(QSize(300, 300))
settings.setExtent(layer.extent())
job = QgsMapRendererParallelJob(settings)
job.start()
job.waitForFinished()
image = job.renderedImage()
assert len({image.pixel(x, y) for x in range(0, 300, 7) for y in range(0, 300, 7)}) >= 7
os._exit(0)  # its own way out crashes while layers are alive
"""


@pytest.mark.slow
def test_qgis_opens_the_geopackage_with_colours(town, tmp_path):
    if subprocess.run([SYSTEM_PYTHON, "-c", "import qgis.core"], capture_output=True).returncode:
        pytest.skip("QGIS is not installed (Debian: apt-get install python3-qgis)")
    run(town, output_dir=tmp_path)
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", OPEN, tmp_path / "predictions.gpkg"],
        capture_output=True,
        text=True,
        env={"QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
