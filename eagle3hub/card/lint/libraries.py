"""Libraries that the Hub knows: what ``library_name`` can be, to choose a page's snippets and count its downloads."""

from __future__ import annotations

_LIST = """
    3dtopia-xl PaddleOCR acestep adapter-transformers allennlp aneforge anemoi araclip asteroid audiocraft
    audioseal aviation-ner bagel-mot bboxmaskpose ben2 bertopic big_vision bionemo birder birefnet bm25s
    boltzgen cancertathomev2 cartesia_mlx cartesia_pytorch causilo ccpfn champ chaossim chat_tts chatterbox
    chexmix chronos-forecasting clara clipscope cloud-agents colipri collectorvision colpali comet cortiq
    cosmos cosyvoice cotracker cxr-foundation deepforest depth-anything-v2 depth-pro derm-foundation
    describe-anything dia-tts dia2 diff-interpretation-tuning diffree diffusers diffusion-single-file
    diffusionkit docking-at-home doctr edsnlp elm encoderfile espnet eupe f5-tts fairseq fastai fastprint
    fasttext fixer flair flexray flextab fme gaussianformer gemma.cpp genmo geometry-crafter gliformer gliner
    gliner2 glm-tts glyph-byt5 granite-library grok habibi-tts hallo hermes hezar holomotion htrflow
    hunyuan-dit hunyuan3d-2 hunyuanworld-voyager hy-world-2 hy-worldplay image-matching-models imstoucan
    index-tts infinite-you infinitetalk intellifold ising-decoding jev-style k2 keras keras-hub kernels
    kimi-audio kittentts kronos lagernvs laya lerobot lightglue lightning-ir litert litert-lm liveportrait
    llama-cpp-python longcat-video-avatar-1.5 ltx lvface lyra-2.0 magenta-realtime magenta-realtime-2 magi-1
    mamba-ssm manas-1 mars5-tts matanyone mect medvae memra merlin mesh-anything mflux microduck mindspore
    mini-omni2 minimax-h3 mitie ml-agents ml-sharp mlc-llm mlx mlx-image mobilint model2vec monkeyocr
    montreal-forced-aligner moshi mtvcraft multimolecule nemo ninfer nobg nv-medtech open-oasis open-sora
    open_clip openasr opendde openpeerllm outetts paddlenlp peft perception-encoder phantom-wan piper
    pocket-tts pruna-ai pxia py-feat pyannote-audio pythae quantumpeer qwen3_tts recurrentgemma refiners relik
    renderformer reverb rkllm robo-orchard-lab routee-powertrain rwkv saelens sam-3d-body sam-3d-objects sam2
    same sample-factory sana sap-rpt-1-oss sapiens sapiens2 scail-2 seed-story seedvr self-forcing
    sentence-transformers setfit shadow skala sklearn soloaudio songbloom spacy span-marker speechbrain
    ssr-speech stable-audio-3 stable-audio-tools stable-baselines3 stanza supertonic swarmformer synthefy-migas
    tabpfn tencent-song-generation tensorflowtts tensorrt terratorch tf-keras tic-clip timee-ts timesfm timm
    tirex tirex-2 torchgeo transformers transformers.js trellis trellis2 tunejury ultralytics uni-3dar
    unity-sentis univa vfi-mamba vibevoice videoprism videox_fun vismatch voicecraft voxcpm vqweb vui wan2.2
    wham whisperkit yolov10 yolov26 zeromodels zonos
"""
HUB_LIBRARIES = frozenset(_LIST.split())
"""The keys of MODEL_LIBRARIES_UI_ELEMENTS in Hugging Face's package @huggingface/tasks 0.21.54.

No inference engine that serves EAGLE-3 heads is among them: they are tags, and what published heads write where an
engine's name stands (``vllm``, ``sglang``, ``speculators``) gets no snippet and no place in the Hub's filter.
"""
