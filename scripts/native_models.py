"""The native engine's models in PyTorch, with the same names of parameters; for check-model.py and the fixtures."""
import sys

import torch
from torch import nn
from torch.nn import functional as F


class Dense(nn.Module):
    """`linear` (no hidden layer) and `mlp`."""

    def __init__(self, features, hidden, classes):
        super().__init__()
        sizes = [features, *hidden, classes]
        self.depth = len(sizes) - 1
        for i in range(self.depth):
            setattr(self, f"fc{i + 1}", nn.Linear(sizes[i], sizes[i + 1]))

    def forward(self, x):
        x = x.flatten(1)
        for i in range(self.depth):
            x = getattr(self, f"fc{i + 1}")(x)
            if i + 1 < self.depth:
                x = torch.relu(x)
        return x


class SimpleCNN(nn.Module):
    """`simple_cnn`: (3x3 convolution, relu, 2x2 max pool) for each of `channels`, then two dense layers."""

    def __init__(self, shape, channels, hidden, classes):
        super().__init__()
        self.depth = len(channels)
        c, h, w = shape
        for i, filters in enumerate(channels):
            setattr(self, f"conv{i + 1}", nn.Conv2d(c, filters, 3, padding=1))
            c, h, w = filters, h // 2, w // 2
        self.fc1 = nn.Linear(c * h * w, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x):
        for i in range(self.depth):
            x = F.max_pool2d(torch.relu(getattr(self, f"conv{i + 1}")(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class TinyNet(nn.Module):
    def __init__(self, shape, width, classes):
        super().__init__()
        c = shape[0]
        for i, (filters, stride) in enumerate([(width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2)]):
            setattr(self, f"conv{i + 1}", nn.Conv2d(c, filters, 3, stride, 1, bias=False))
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(filters))
            c = filters
        self.fc = nn.Linear(c, classes)

    def forward(self, x):
        for i in range(1, 5):
            x = torch.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        return self.fc(x.mean((2, 3)))


def is_large(shape, stem):
    return stem == "imagenet" or (stem == "auto" and min(shape[1:]) >= 64)


class Block(nn.Module):
    def __init__(self, channels, inner, outer, stride, bottleneck):
        super().__init__()
        plan = [(inner, 1, 1), (inner, 3, stride), (outer, 1, 1)] if bottleneck else [(inner, 3, stride), (outer, 3, 1)]
        self.depth, c = len(plan), channels
        for i, (filters, kernel, s) in enumerate(plan):
            setattr(self, f"conv{i + 1}", nn.Conv2d(c, filters, kernel, s, kernel // 2, bias=False))
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(filters))
            c = filters
        self.downsample = None
        if stride != 1 or channels != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = torch.relu(y)
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, shape, depths, bottleneck, stem, width, classes):
        super().__init__()
        self.large = is_large(shape, stem)
        kernel, stride = (7, 2) if self.large else (3, 1)
        self.conv1 = nn.Conv2d(shape[0], width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        c = width
        for stage, depth in enumerate(depths):
            inner = width << stage
            outer = 4 * inner if bottleneck else inner
            blocks = []
            for i in range(depth):
                blocks.append(Block(c, inner, outer, 2 if stage > 0 and i == 0 else 1, bottleneck))
                c = outer
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(c, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        if self.large:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


def unit(c, filters, kernel, stride=1, groups=1):
    return [nn.Conv2d(c, filters, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(filters)]


class Inverted(nn.Module):
    def __init__(self, c, filters, expansion, stride):
        super().__init__()
        inner = c * expansion
        parts = [nn.Sequential(*unit(c, inner, 1), nn.ReLU6())] if expansion > 1 else []
        parts += [nn.Sequential(*unit(inner, inner, 3, stride, inner), nn.ReLU6()), *unit(inner, filters, 1)]
        self.conv = nn.Sequential(*parts)
        self.adds = stride == 1 and c == filters

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, shape, stem, dropout, classes):
        super().__init__()
        first = 2 if is_large(shape, stem) else 1
        parts, c = [nn.Sequential(*unit(shape[0], 32, 3, first), nn.ReLU6())], 32
        for t, filters, n, s in [(1, 16, 1, 1), (6, 24, 2, first), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                 (6, 160, 3, 2), (6, 320, 1, 1)]:
            for i in range(n):
                parts.append(Inverted(c, filters, t, s if i == 0 else 1))
                c = filters
        parts.append(nn.Sequential(*unit(c, 1280, 1), nn.ReLU6()))
        self.features = nn.Sequential(*parts)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def rotate(x):
    """`[B, heads, T, D]`, the halves' form of GPT-NeoX."""
    length, half = x.shape[2], x.shape[3] // 2
    angle = torch.arange(length, dtype=torch.float64)[:, None] * 1e4 ** (-torch.arange(half) / half)[None]
    c, s = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


class Attention(nn.Module):
    def __init__(self, features, heads, causal, rotary):
        super().__init__()
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.c_attn = nn.Linear(features, 3 * features)
        self.c_proj = nn.Linear(features, features)

    def forward(self, x):
        batch, length, features = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).split(features, 2))
        if self.rotary:
            q, k = rotate(q), rotate(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, features))


class TransformerBlock(nn.Module):
    def __init__(self, features, heads, dropout, causal, rotary=False):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.attn = Attention(features, heads, causal, rotary)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(features, 4 * features), "c_proj": nn.Linear(4 * features, features)})
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        x = x + self.drop(self.attn(self.ln_1(x)))
        return x + self.drop(self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x)))))


class GPT(nn.Module):
    def __init__(self, length, p, classes):
        super().__init__()
        features, rotary = p.get("features", 384), p.get("positions", "learned") == "rotary"
        parts = {"wte": nn.Embedding(classes, features)}
        if not rotary:
            parts["wpe"] = nn.Embedding(length, features)
        parts["h"] = nn.ModuleList(
            TransformerBlock(features, p.get("heads", 6), p.get("dropout", 0), True, rotary)
            for _ in range(p.get("layers", 6)))
        parts["ln_f"] = nn.LayerNorm(features)
        self.transformer = nn.ModuleDict(parts)
        self.drop = nn.Dropout(p.get("dropout", 0))

    def forward(self, tokens):
        x = self.transformer["wte"](tokens.long())
        if "wpe" in self.transformer:
            x = x + self.transformer["wpe"].weight
        x = self.drop(x)
        for block in self.transformer["h"]:
            x = block(x)
        return self.transformer["ln_f"](x) @ self.transformer["wte"].weight.T


class ViT(nn.Module):
    def __init__(self, shape, p, classes):
        super().__init__()
        patch, features = p.get("patch", 4), p.get("features", 192)
        self.patch_embed = nn.Conv2d(shape[0], features, patch, patch)
        self.pos_embed = nn.Parameter(torch.zeros((shape[1] // patch) * (shape[2] // patch), features))
        self.blocks = nn.ModuleList(
            TransformerBlock(features, p.get("heads", 3), p.get("dropout", 0), False)
            for _ in range(p.get("layers", 12)))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, classes)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return x + self.layers(x)


class Position(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        return x + self.weight


class RMSNorm(nn.RMSNorm):
    def __init__(self, features):
        super().__init__(features, eps=1e-5)


PLAIN = {"relu": nn.ReLU, "relu6": nn.ReLU6, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh,
         "sigmoid": nn.Sigmoid, "flatten": nn.Flatten}


def sequence(layers, shape, vocabulary):
    """The layers of a list as one module, and the shape behind them; `shape` is of one sample, tokens are [T, C]."""
    found = []
    for layer in layers:
        kind, p = layer["type"], layer["parameters"]
        c = shape[0]
        if kind in PLAIN:
            module = PLAIN[kind]()
        elif kind == "conv":
            module = nn.Conv2d(
                c, p.get("filters", 32), p.get("kernel", 3), p.get("stride", 1), p.get("padding", 0),
                p.get("dilation", 1), p.get("groups", 1), p.get("bias", True))
        elif kind == "dense":
            if len(shape) == 3:
                module = nn.Sequential()
                module.append(nn.Flatten())
                sys.exit("native_models: write flatten before dense")
            module = nn.Linear(shape[-1], p.get("units", 128), p.get("bias", True))
        elif kind == "max_pool":
            module = nn.MaxPool2d(p.get("kernel", 2), p.get("stride", 2), p.get("padding", 0))
        elif kind == "average_pool":
            module = nn.AvgPool2d(p.get("kernel", 2), p.get("stride", 2))
        elif kind == "batch_norm":
            module = nn.BatchNorm2d(c, momentum=p.get("momentum", 0.1))
        elif kind == "group_norm":
            module = nn.GroupNorm(p.get("groups", 8), c)
        elif kind == "layer_norm":
            module = nn.LayerNorm(shape[-1])
        elif kind == "rms_norm":
            module = RMSNorm(shape[-1])
        elif kind == "dropout":
            module = nn.Dropout(p.get("rate", 0.5))
        elif kind == "global_pool":
            axes = (2, 3) if len(shape) == 3 else (1,)
            module = Lambda(lambda x, axes=axes: x.mean(axes))
        elif kind == "embedding":
            module = nn.Embedding(vocabulary, p.get("features", 64))
        elif kind == "positions":
            module = Position(shape)
        elif kind == "attention":
            module = Attention(shape[-1], p.get("heads", 4), p.get("causal", True), p.get("rotary", False))
        elif kind == "residual":
            module = Residual(sequence(p["layers"], shape, vocabulary)[0])
        else:
            sys.exit(f"native_models: there is no layer {kind} here")
        with torch.no_grad():
            probe = torch.zeros(2, *shape)
            shape = list(module.eval()(probe.long() if kind == "embedding" else probe).shape[1:])
        found.append(module.train())
    return nn.Sequential(*found), shape


class Sequential(nn.Module):
    def __init__(self, layers, shape, classes):
        super().__init__()
        self.tokens = layers[0]["type"] == "embedding"
        self.layers, behind = sequence(layers, shape, classes)
        self.flat = len(behind) == 3
        if self.flat:
            behind = [behind[0] * behind[1] * behind[2]]
        self.head = nn.Linear(behind[-1], classes)

    def forward(self, x):
        x = self.layers(x.long() if self.tokens else x)
        return self.head(x.flatten(1) if self.flat else x)


def build(model, shape, classes):
    """The module of `{"type": …, "parameters": {…}}` for samples of `shape`."""
    kind, p = model["type"], model["parameters"]
    features = 1
    for size in shape:
        features *= size
    stem, width = p.get("stem", "auto"), p.get("width", 64)
    if kind == "linear":
        return Dense(features, [], classes)
    if kind == "mlp":
        return Dense(features, p.get("hidden", [128]), classes)
    if kind == "simple_cnn":
        return SimpleCNN(shape, p.get("channels", [32, 64]), p.get("hidden", 128), classes)
    if kind == "tiny_net":
        return TinyNet(shape, p.get("width", 16), classes)
    if kind in ("resnet18", "resnet34", "resnet50"):
        depths = [2, 2, 2, 2] if kind == "resnet18" else [3, 4, 6, 3]
        return ResNet(shape, depths, kind == "resnet50", stem, width, classes)
    if kind == "mobilenet_v2":
        return MobileNetV2(shape, stem, p.get("dropout", 0.2), classes)
    if kind == "vit_tiny":
        return ViT(shape, p, classes)
    if kind == "gpt":
        return GPT(shape[0], p, classes)
    if kind == "sequential":
        return Sequential(p["layers"], shape, classes)
    sys.exit(f"native_models: there is no model {kind} here")
