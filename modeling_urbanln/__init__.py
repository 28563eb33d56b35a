"""The model: import this package, and the auto classes of transformers know UrbanLN."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPTokenizer,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .clip_checkpoints import load_clip
from .configuration_urbanln import UrbanLNConfig, UrbanLNTextConfig
from .distillation_urbanln import MomentumDistillationMixin, UrbanLNForPreTrainingOutput
from .modeling_urbanln import UrbanLNForPreTraining, UrbanLNModel
from .momentum import EmbeddingQueue, MomentumKeys, update_momentum_
from .pipeline_urbanln import TASK, UrbanRegionFeatureExtractionPipeline
from .positional import stretch_position_embeddings
from .processing_urbanln import TruncationReport, UrbanLNProcessor, clean_text

AutoConfig.register(UrbanLNConfig.model_type, UrbanLNConfig)
AutoModel.register(UrbanLNConfig, UrbanLNModel)
AutoModelForPreTraining.register(UrbanLNConfig, UrbanLNForPreTraining)
AutoModelForZeroShotImageClassification.register(UrbanLNConfig, UrbanLNModel)
AutoProcessor.register(UrbanLNConfig, UrbanLNProcessor)
AutoImageProcessor.register(UrbanLNConfig, fast_image_processor_class=CLIPImageProcessor)
AutoTokenizer.register(UrbanLNConfig, CLIPTokenizer)

PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=UrbanRegionFeatureExtractionPipeline,
    pt_model=AutoModel,
    type="multimodal",
)

# saved folders carry this code, so that they load where the package is not installed
UrbanLNConfig.register_for_auto_class("AutoConfig")
UrbanLNModel.register_for_auto_class("AutoModel")
UrbanLNForPreTraining.register_for_auto_class("AutoModelForPreTraining")
UrbanLNProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "EmbeddingQueue",
    "MomentumDistillationMixin",
    "MomentumKeys",
    "TruncationReport",
    "UrbanLNConfig",
    "UrbanLNForPreTraining",
    "UrbanLNForPreTrainingOutput",
    "UrbanLNModel",
    "UrbanLNProcessor",
    "UrbanLNTextConfig",
    "UrbanRegionFeatureExtractionPipeline",
    "clean_text",
    "load_clip",
    "stretch_position_embeddings",
    "update_momentum_",
]
