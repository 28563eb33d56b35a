"""The GeoPackage in QGIS (Debian's `python3-qgis`)."""

import json
import shutil
import subprocess

import pytest

from pipelines.prediction import predict_regions
from tests.pipelines.prediction.test_predict import silent

SYSTEM_PYTHON = "/usr/bin/python3"
OPEN = """
import json, os, sys
from qgis.core import (
    QgsApplication, QgsExpressionContext, QgsExpressionContextUtils, QgsMapRendererParallelJob,
    QgsMapSettings, QgsRenderContext, QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize

application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(sys.argv[1] + "|layername=predictions", "predictions", "ogr")
renderer = layer.renderer()
found = {
    "valid": layer.isValid(),
    "renderer": renderer.type(),
    "attribute": renderer.classAttribute() if renderer.type() == "graduatedSymbol" else None,
    "classes": len(renderer.legendSymbolItems()),
    "styles": layer.listStylesInDatabase()[2],
}
settings = QgsMapSettings()
settings.setLayers([layer])
settings.setOutputSize(QSize(300, 300))
settings.setExtent(layer.extent())
job = QgsMapRendererParallelJob(settings)
job.start()
job.waitForFinished()
image = job.renderedImage()
image.save(sys.argv[2])
found["colours"] = len({image.pixel(x, y) for x in range(0, 300, 7) for y in range(0, 300, 7)})
print(json.dumps(found), flush=True)
os._exit(0)  # its own way out crashes while layers are alive
"""


def qgis_is_there() -> bool:
    if not shutil.which(SYSTEM_PYTHON):
        return False
    tried = subprocess.run([SYSTEM_PYTHON, "-c", "import qgis.core"], capture_output=True)
    return tried.returncode == 0


@pytest.mark.slow
def test_qgis_opens_the_geopackage_with_colours(town, tmp_path):
    if not qgis_is_there():
        pytest.skip("QGIS is not installed (Debian: apt-get install python3-qgis)")
    predict_regions(
        town.photos, town.tracts, "tract", {"height": "m"}, "colour_texture",
        output_dir=tmp_path, log=silent,
    )  # fmt: skip
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", OPEN, tmp_path / "predictions.gpkg", tmp_path / "map.png"],
        capture_output=True,
        text=True,
        env={"QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["valid"]
    assert found["renderer"] == "graduatedSymbol"
    assert found["attribute"] == '"height_predicted"'
    assert found["classes"] == 7
    assert len(found["styles"]) == 3
    assert found["colours"] >= 7
