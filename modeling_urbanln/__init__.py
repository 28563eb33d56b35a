"""UrbanLN for transformers; importing the package registers its auto classes and pipeline."""

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
    Siglip2Tokenizer,
    SiglipImageProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .clip_checkpoints import load_clip, remedy
from .configuration_urbanln import SelfDistillationFields, UrbanLNConfig, UrbanLNTextConfig
from .distillation_urbanln import MomentumDistillationMixin, UrbanLNForPreTrainingOutput
from .modeling_urbanln import UrbanLNForPreTraining, UrbanLNModel
from .modeling_urbanln_siglip import (
    UrbanLNSiglipConfig,
    UrbanLNSiglipForPreTraining,
    UrbanLNSiglipModel,
)
from .momentum import EmbeddingQueue, MomentumKeys, update_momentum_
from .pipeline_urbanln import TASK, UrbanRegionFeatureExtractionPipeline
from .positional import stretch_position_embeddings
from .processing_urbanln import TruncationReport, UrbanLNProcessor, clean_text


def _register(config, model, pretraining, image_processor, tokenizer) -> None:
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)
    AutoModelForPreTraining.register(config, pretraining)
    AutoModelForZeroShotImageClassification.register(config, model)
    AutoProcessor.register(config, UrbanLNProcessor)
    AutoImageProcessor.register(config, fast_image_processor_class=image_processor)
    AutoTokenizer.register(config, tokenizer)
    # save_pretrained copies this code, and the folder loads with trust_remote_code=True
    config.register_for_auto_class("AutoConfig")
    model.register_for_auto_class("AutoModel")
    pretraining.register_for_auto_class("AutoModelForPreTraining")


_register(UrbanLNConfig, UrbanLNModel, UrbanLNForPreTraining, CLIPImageProcessor, CLIPTokenizer)
_register(
    UrbanLNSiglipConfig,
    UrbanLNSiglipModel,
    UrbanLNSiglipForPreTraining,
    SiglipImageProcessor,
    Siglip2Tokenizer,
)
UrbanLNProcessor.register_for_auto_class("AutoProcessor")

PIPELINE_REGISTRY.register_pipeline(
    TASK,
    pipeline_class=UrbanRegionFeatureExtractionPipeline,
    pt_model=AutoModel,
    type="multimodal",
)

__all__ = [
    "EmbeddingQueue",
    "MomentumDistillationMixin",
    "MomentumKeys",
    "SelfDistillationFields",
    "TruncationReport",
    "UrbanLNConfig",
    "UrbanLNForPreTraining",
    "UrbanLNForPreTrainingOutput",
    "UrbanLNModel",
    "UrbanLNProcessor",
    "UrbanLNSiglipConfig",
    "UrbanLNSiglipForPreTraining",
    "UrbanLNSiglipModel",
    "UrbanLNTextConfig",
    "UrbanRegionFeatureExtractionPipeline",
    "clean_text",
    "load_clip",
    "remedy",
    "stretch_position_embeddings",
    "update_momentum_",
]
