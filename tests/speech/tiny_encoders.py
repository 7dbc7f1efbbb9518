"""Tiny encoders with random weights, in the files of the published ones."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.config import GroupedConfig

LAYERS, WIDTH = 3, 32
KINDS = ("mhubert-147", "cn-hubert-large", "w2v-bert-2.0")
"""Group norm, layer norm before the layers, conformer."""
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 64}
CONVOLUTIONS = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}


def tiny_model(kind: str) -> torch.nn.Module:
    """A random model of a published encoder's architecture, in eval mode."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2BertConfig, Wav2Vec2BertModel

    if kind == "w2v-bert-2.0":
        return Wav2Vec2BertModel(Wav2Vec2BertConfig(**SMALL)).eval()
    large = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    return HubertModel(HubertConfig(**SMALL, **CONVOLUTIONS, **(large if kind == "cn-hubert-large" else {}))).eval()


def tiny_extractor(kind: str):
    """The feature extractor of a published encoder."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

    if kind == "w2v-bert-2.0":
        return SeamlessM4TFeatureExtractor(padding_value=1.0)
    return Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=kind == "cn-hubert-large")


def save_encoder(folder: Path, kind: str, model: torch.nn.Module | None = None) -> torch.nn.Module:
    """Write the published files of an encoder; its model."""
    model = tiny_model(kind) if model is None else model
    model.save_pretrained(folder)
    tiny_extractor(kind).save_pretrained(folder)
    return model


def encoder_config(kind: str, layer: int = 2, **changes) -> GroupedConfig:
    """The config of a tiny encoder."""
    return GroupedConfig(encoder=kind, layer=layer, feature_dim=WIDTH, **changes)


def speech_like(samples: int, seed: int = 0, rate: int = 16000) -> Tensor:
    """A wav [S] with a moving pitch, pauses and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / rate
    phase = 2 * torch.pi * (120 * time + 8 * torch.sin(2 * torch.pi * 0.7 * time + seed))
    voice = sum(torch.sin(k * phase) / k for k in range(1, 6)) * (torch.sin(2 * torch.pi * 1.3 * time) > -0.5)
    return 0.1 * voice + 0.01 * torch.randn(samples, generator=generator)


class TinyS3:
    """The arithmetic of a graph like the published ones: two strided convolutions, then an FSQ or a codebook.

    `write` exports it with the published inputs and outputs, `ids` computes it in torch.
    """

    def __init__(self, kind: str, seed: int = 0, names: tuple[str, str] = ("feats", "feats_length")):
        generator = torch.Generator().manual_seed(seed)
        self.vq, self.names = kind.startswith("s3-v1"), names
        self.strides = (1, 2) if kind.endswith("50hz") else (2, 2)
        width = 4 if self.vq else 8
        self.first = torch.randn(12, 128, 3, generator=generator) * 0.15
        self.second = torch.randn(width, 12, 3, generator=generator) * 0.4
        self.codebook = torch.randn(4096, width, generator=generator) * 0.6

    def states(self, mel: Tensor) -> Tensor:
        """mel [1, 128, F] -> what is quantised [T, width]."""
        x = torch.nn.functional.conv1d(mel, self.first, stride=self.strides[0], padding=1).tanh()
        return torch.nn.functional.conv1d(x, self.second, stride=self.strides[1], padding=1)[0].T

    def ids(self, mel: Tensor) -> Tensor:
        """mel [1, 128, F] -> ids [T] int64."""
        states = self.states(mel)
        if self.vq:
            return torch.cdist(states, self.codebook, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        digits = (states.tanh() * 0.999).round() + 1
        return (digits * 3.0 ** torch.arange(8)).sum(1).long()

    def write(self, path: Path) -> None:
        """The ONNX file."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        frames, count = self.names
        kind = TensorProto.INT64 if self.vq else TensorProto.INT32
        constants = {"first": self.first, "second": self.second, "codebook": self.codebook.T[None]}
        tensors = {name: np.ascontiguousarray(t.numpy()) for name, t in constants.items()}
        tensors |= {"zero": np.array([0]), "axis": np.array([2]), "one": np.array(1, np.float32)}
        tensors |= {"almost": np.array(0.999, np.float32), "middle": np.array([1]), "end": np.array([-1])}
        tensors |= {"powers": (3.0 ** np.arange(8)).astype(np.float32)}
        node = helper.make_node
        nodes = [
            node("Cast", [count], ["stop"], to=TensorProto.INT64),
            node("Slice", [frames, "zero", "stop", "axis"], ["real"]),
            node("Conv", ["real", "first"], ["a"], strides=[self.strides[0]], pads=[1, 1]),
            node("Tanh", ["a"], ["b"]),
            node("Conv", ["b", "second"], ["c"], strides=[self.strides[1]], pads=[1, 1]),
            node("Transpose", ["c"], ["states"], perm=[0, 2, 1]),
        ]
        if self.vq:
            nodes += [
                node("Unsqueeze", ["states", "end"], ["wide"]),
                node("Unsqueeze", ["codebook", "middle"], ["codes"]),
                node("Sub", ["wide", "codes"], ["apart"]),
                node("Mul", ["apart", "apart"], ["squares"]),
                node("ReduceSum", ["squares", "axis"], ["distance"], keepdims=0),
                node("ArgMin", ["distance"], ["indices"], axis=-1, keepdims=0),
            ]
        else:
            nodes += [
                node("Tanh", ["states"], ["bounded"]),
                node("Mul", ["bounded", "almost"], ["inside"]),
                node("Round", ["inside"], ["rounded"]),
                node("Add", ["rounded", "one"], ["digits"]),
                node("Mul", ["digits", "powers"], ["shares"]),
                node("ReduceSum", ["shares", "end"], ["sum"], keepdims=0),
                node("Cast", ["sum"], ["indices"], to=TensorProto.INT32),
            ]
        graph = helper.make_graph(
            nodes,
            "tokenizer",
            [
                helper.make_tensor_value_info(frames, TensorProto.FLOAT, [1, 128, "frames"]),
                helper.make_tensor_value_info(count, TensorProto.INT32, [1]),
            ],
            [helper.make_tensor_value_info("indices", kind, [1, "tokens"])],
            [numpy_helper.from_array(array, name) for name, array in tensors.items()],
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)
