#!/usr/bin/env python3
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
"""make - the reference cases of experts, of norms of heads, of biases and positions for longer contexts, and of windows, in float64.

    python3 tests/reference/make.py        needs torch; with transformers (4.43, for qwen3_moe 4.51, for longrope, smollm3, granite and gpt_neox 4.57) also compares the logits

Writes tests/reference/mixtral-tiny, qwen2-tiny, qwen3-moe-tiny and mistral-tiny in the form of the other cases: config.json, model.safetensors, tokens.safetensors [steps,
micro-batches, batch, sequence + 1], job.json (with the id that ends a document, where tokens see those of theirs only), expected.json (per step the cross entropy, the norm of the gradient before
clipping, the learning rate) and expected.safetensors (gradients of step 0, before clipping; final weights).

For experts the loss that is differentiated is the cross entropy plus router_aux_loss_coef times, for each layer, the mean over sequences of
E * sum over experts of (share of the sequence's pairs) * (mean probability): of each sequence by itself, and 1 where all experts
are used alike, unlike that of transformers.  Which experts a row has must not hang on rounding: the seed is the first from
--seed on with which the last expert taken and the first left out differ by 1.4e-3 at least, everywhere.
"""
import argparse
import json
import math
import pathlib
import struct

import torch

torch.set_default_dtype(torch.float64)
HERE = pathlib.Path(__file__).resolve().parent
CONFIGS = {
    "mixtral-tiny": {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "vocab_size": 61, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": False, "num_local_experts": 5,
        "num_experts_per_tok": 2, "router_aux_loss_coef": 0.05, "sliding_window": None,
    },
    "qwen2-tiny": {  # 8 frequencies: some stay, some are between, some are stretched
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000.0,
        "vocab_size": 53, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 16, "tie_word_embeddings": True, "use_sliding_window": False,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 64},
    },
}
CONFIGS["qwen3-moe-tiny"] = {  # all heads together are wider than the stream
    "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "vocab_size": 47, "hidden_size": 24, "intermediate_size": 20, "moe_intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 16, "tie_word_embeddings": False,
    "num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "attention_bias": False, "use_sliding_window": False, "router_aux_loss_coef": 0.05,
}
CONFIGS["mistral-tiny"] = {  # so few tokens that many a sequence has several documents
    "model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "vocab_size": 13, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": False, "sliding_window": 4,
}
CONFIGS["phi3-tiny"] = {  # of 16 elements of a head 12 are turned
    "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "vocab_size": 43, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 16, "tie_word_embeddings": True, "sliding_window": 6,
    "partial_rotary_factor": 0.75, "pad_token_id": None,
}
CONFIGS["olmo2-tiny"] = {
    "model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 500000.0,
    "vocab_size": 37, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": False, "attention_bias": False, "pad_token_id": None,
}
CONFIGS["gemma3-tiny"] = {  # the second layer sees all
    "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
    "rope_theta": 5000.0, "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "vocab_size": 41, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 10, "query_pre_attn_scalar": 12, "max_position_embeddings": 16, "tie_word_embeddings": True, "attention_bias": False,
    "sliding_window": 4, "sliding_window_pattern": 2, "pad_token_id": None,
}
CONFIGS["longrope-tiny"] = {  # sequences are longer than the first context
    "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "vocab_size": 31, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 24, "original_max_position_embeddings": 6, "tie_word_embeddings": False,
    "partial_rotary_factor": 0.75, "pad_token_id": None,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.25, 1.5, 1.75, 2.0, 2.5], "long_factor": [1.0, 2.0, 3.5, 5.0, 7.5, 8.0]},
}
CONFIGS["smollm3-tiny"] = {  # the second layer has no positions
    "model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 5000.0,
    "vocab_size": 39, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
    "no_rope_layer_interval": 2, "no_rope_layers": [1, 0, 1], "use_sliding_window": False, "pad_token_id": None,
}
CONFIGS["granite-tiny"] = {
    "model_type": "granite", "architectures": ["GraniteForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "vocab_size": 45, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
    "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.3, "logits_scaling": 0.8,
}
for name, parallel in (("pythia-tiny", True), ("neox-tiny", False)):  # of 12 elements of a head 6 are turned
    CONFIGS[name] = {
        "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu", "layer_norm_eps": 1e-5,
        "rotary_emb_base": 10000, "rotary_pct": 0.5, "vocab_size": 35, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": False, "attention_bias": True,
        "use_parallel_residual": parallel,
    }
NORMS = {  # before the halves of a layer, and behind them
    "olmo2": ((None, None), ("post_attention_layernorm", "post_feedforward_layernorm")),
    "gemma3_text": (("input_layernorm", "pre_feedforward_layernorm"), ("post_attention_layernorm", "post_feedforward_layernorm")),
}
OF_HEADS, OF_ROWS = ("qwen3_moe", "gemma3_text"), ("olmo2",)  # norms of queries and keys
SEPARATORS = {"mistral-tiny": 5}
CONFIG = {}  # the one at hand


def experts_of():
    """How many there are, 0: none; how many a token is given to; their names, the router's first."""
    if CONFIG["model_type"] == "mixtral":
        return (CONFIG["num_local_experts"], CONFIG["num_experts_per_tok"],
                ("block_sparse_moe.gate", *(f"block_sparse_moe.experts.{{}}.{name}" for name in ("w1", "w3", "w2"))))
    return (CONFIG.get("num_experts", 0), CONFIG.get("num_experts_per_tok", 0),
            ("mlp.gate", *(f"mlp.experts.{{}}.{name}_proj" for name in ("gate", "up", "down"))))


def packed():
    """What a folder has as one matrix, by rows: how its name ends, and those of what is in it, with their rows."""
    if CONFIG["model_type"] != "phi3":
        return {}
    wide, narrow = (head_size() * CONFIG[f"num_{heads}_heads"] for heads in ("attention", "key_value"))
    return {"self_attn.qkv_proj.weight": {"self_attn.q_proj.weight": wide, "self_attn.k_proj.weight": narrow, "self_attn.v_proj.weight": narrow},
            "mlp.gate_up_proj.weight": {"mlp.gate_proj.weight": CONFIG["intermediate_size"], "mlp.up_proj.weight": CONFIG["intermediate_size"]}}


def as_packed(w):
    """The weights of a model as its folder has them."""
    for name, parts in packed().items():
        for i in range(CONFIG["num_hidden_layers"]):
            at = f"model.layers.{i}."
            w[at + name] = torch.cat([w.pop(at + part) for part in parts])
    return w


def as_apart(w):
    """And each by its own name."""
    apart = dict(w)
    for name, parts in packed().items():
        for i in range(CONFIG["num_hidden_layers"]):
            at = f"model.layers.{i}."
            apart.update(zip((at + part for part in parts), apart.pop(at + name).split(list(parts.values()))))
    return apart


def is_mixed():
    """Are there layers that see all, and others with a window and positions of their own?"""
    return CONFIG["model_type"] == "gemma3_text"


def is_local(layer):
    return is_mixed() and (layer + 1) % CONFIG["sliding_window_pattern"] != 0


def norms():
    """Names of the norms before and behind attention and feed-forward block."""
    return NORMS.get(CONFIG["model_type"], (("input_layernorm", "post_attention_layernorm"), (None, None)))


def head_size():
    return CONFIG.get("head_dim") or CONFIG["hidden_size"] // CONFIG["num_attention_heads"]
JOB = {
    "steps": 6, "micro_batches": 2, "batch": 4, "seq": 9, "clip": 1.0,
    "optimizer": {"name": "adamw", "lr": 3e-3, "betas": [0.9, 0.95], "eps": 1e-5, "weight_decay": 0.1, "decay_only_dims": 2},
    "schedule": {"name": "warmup_cosine", "warmup_steps": 2, "total_steps": 6, "min_lr": 3e-4},
}
LEAST_GAP = 1.4e-3


def weights(generator):
    """By the names of a checkpoint; values that float32 has."""
    def some(*shape, around=0.0, std=0.1):
        return (around + torch.randn(*shape, generator=generator) * std).float().double()

    if is_neox():
        return neox_weights(some)
    c = CONFIG
    one = 1.0 - one_more()  # that norms lie around
    hidden, ffn = c["hidden_size"], c["intermediate_size"]
    wide, narrow = (head_size() * c[f"num_{heads}_heads"] for heads in ("attention", "key_value"))
    experts, _, names = experts_of()
    w = {"model.embed_tokens.weight": some(c["vocab_size"], hidden)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for norm in filter(None, norms()[0] + norms()[1]):
            w[f"{at}{norm}.weight"] = some(hidden, around=one)
        for name, rows, columns in (("q", wide, hidden), ("k", narrow, hidden), ("v", narrow, hidden), ("o", hidden, wide)):
            w[f"{at}self_attn.{name}_proj.weight"] = some(rows, columns)
            if c["model_type"] in OF_HEADS + OF_ROWS and name in "qk":
                w[f"{at}self_attn.{name}_norm.weight"] = some(head_size() if c["model_type"] in OF_HEADS else rows, around=one)
            if c["model_type"] == "qwen2" and name != "o":
                w[f"{at}self_attn.{name}_proj.bias"] = some(rows)
        if not experts:
            for name, shape in (("gate", (ffn, hidden)), ("up", (ffn, hidden)), ("down", (hidden, ffn))):
                w[f"{at}mlp.{name}_proj.weight"] = some(*shape)
            continue
        w[f"{at}{names[0]}.weight"] = some(experts, hidden, std=0.3)
        for e in range(experts):
            for name, shape in zip((names[1], names[3], names[2]), ((ffn, hidden), (hidden, ffn), (ffn, hidden))):
                w[f"{at}{name.format(e)}.weight"] = some(*shape, std=0.2)
    w["model.norm.weight"] = some(hidden, around=one)
    if not c["tie_word_embeddings"]:
        w["lm_head.weight"] = some(c["vocab_size"], hidden)
    return as_packed(w)


def is_neox():
    return CONFIG["model_type"] == "gpt_neox"


def neox_weights(some):
    hidden, ffn, vocab = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    w = {"gpt_neox.embed_in.weight": some(vocab, hidden)}

    def both(name, *shape, around=0.0):
        w[f"{name}.weight"], w[f"{name}.bias"] = some(*shape, around=around), some(shape[0])

    for i in range(CONFIG["num_hidden_layers"]):
        at = f"gpt_neox.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            both(at + norm, hidden, around=1.0)
        both(at + "attention.query_key_value", 3 * hidden, hidden)
        both(at + "attention.dense", hidden, hidden)
        both(at + "mlp.dense_h_to_4h", ffn, hidden)
        both(at + "mlp.dense_4h_to_h", hidden, ffn)
    both("gpt_neox.final_layer_norm", hidden, around=1.0)
    w["embed_out.weight"] = some(vocab, hidden)
    return w


def neox_forward(w, ids):
    heads, size = CONFIG["num_attention_heads"], CONFIG["hidden_size"] // CONFIG["num_attention_heads"]

    def by(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def layer_norm(name, x):
        x = x - x.mean(-1, keepdim=True)
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + CONFIG["layer_norm_eps"]) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(at, x):
        batch, length, _ = x.shape
        q, k, v = by(at + "attention.query_key_value", x).view(batch, length, heads, 3, size).permute(3, 0, 2, 1, 4)
        q, k = turned(q, False), turned(k, False)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(size)).masked_fill(unseen(ids, None)[:, None], -math.inf)
        seen = torch.softmax(scores, -1) @ v
        return by(at + "attention.dense", seen.transpose(1, 2).reshape(batch, length, heads * size))

    x = w["gpt_neox.embed_in.weight"][ids]
    for i in range(CONFIG["num_hidden_layers"]):
        at = f"gpt_neox.layers.{i}."
        attended = attention(at, layer_norm(at + "input_layernorm", x))
        y = by(at + "mlp.dense_h_to_4h", layer_norm(at + "post_attention_layernorm", x if CONFIG["use_parallel_residual"] else x + attended))
        x = x + attended + by(at + "mlp.dense_4h_to_h", 0.5 * y * (1 + torch.erf(y / math.sqrt(2))))
    return layer_norm("gpt_neox.final_layer_norm", x) @ w["embed_out.weight"].T, 0.0


def one_more():
    """What is added to weights of norms."""
    return float(is_mixed())


def normed(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + CONFIG["rms_norm_eps"]) * (weight + one_more())


def stretched(frequency, pair, length):
    """Of a pair, in sequences of this length."""
    scaling = CONFIG.get("rope_scaling")
    if not scaling:
        return frequency
    if scaling.get("type") == "longrope":
        return frequency / scaling["long_factor" if length > CONFIG["original_max_position_embeddings"] else "short_factor"][pair]
    if scaling["rope_type"] == "linear":
        return frequency / scaling["factor"]
    wave, first = 2 * math.pi / frequency, scaling["original_max_position_embeddings"]
    if wave > first / scaling["low_freq_factor"]:
        return frequency / scaling["factor"]
    if wave < first / scaling["high_freq_factor"]:
        return frequency
    part = (first / wave - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"])
    return (1 - part) * frequency / scaling["factor"] + part * frequency


def gain():
    """What cosines and sines are multiplied by."""
    first = CONFIG.get("original_max_position_embeddings")
    return math.sqrt(1 + math.log(CONFIG["max_position_embeddings"] / first) / math.log(first)) if first else 1.0


def turned(x, local):
    """Rotary positions on [batch, heads, sequence, size]: of the first elements of a head, or of all."""
    length, size = x.shape[-2], int(x.shape[-1] * CONFIG.get("partial_rotary_factor", CONFIG.get("rotary_pct", 1.0)))
    theta = CONFIG["rope_local_base_freq" if local else "rotary_emb_base" if is_neox() else "rope_theta"]
    frequencies = [theta ** (-i / size) if local else stretched(theta ** (-i / size), i // 2, length) for i in range(0, size, 2)]
    angle = torch.arange(length)[:, None] * torch.tensor(frequencies)
    cosine, sine = gain() * angle.cos(), gain() * angle.sin()
    low, high, rest = x[..., :size // 2], x[..., size // 2:size], x[..., size:]
    return torch.cat([low * cosine - high * sine, high * cosine + low * sine, rest], -1)


def unseen(ids, separator, windowed=True):
    """[batch, query, key]: is the key behind the query, in front of its window, or of another document?"""
    at = torch.arange(ids.shape[1])
    behind = at[None, :] > at[:, None]
    window = windowed and CONFIG.get("sliding_window") or ids.shape[1]
    hidden = (behind | (at[None, :] <= at[:, None] - window))[None].repeat(ids.shape[0], 1, 1)
    if separator is not None:
        document = torch.cumsum(ids == separator, 1) - (ids == separator).long()  # a separator is of the document that it ends
        hidden |= document[:, None, :] != document[:, :, None]
    return hidden


def has_positions(layer):
    return CONFIG.get("no_rope_layers", [1] * CONFIG["num_hidden_layers"])[layer] == 1


def attended(x, w, at, hidden, layer):
    batch, length, _ = x.shape
    heads, groups = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]

    def apart(name, n):
        made = x @ w[f"{at}self_attn.{name}_proj.weight"].T + w.get(f"{at}self_attn.{name}_proj.bias", 0.0)
        norm = w.get(f"{at}self_attn.{name}_norm.weight")
        if norm is not None and CONFIG["model_type"] in OF_ROWS:
            made = normed(made, norm)
        heads_of = made.view(batch, length, n, head_size()).transpose(1, 2)
        return normed(heads_of, norm) if norm is not None and CONFIG["model_type"] in OF_HEADS else heads_of

    q, k, v = apart("q", heads), apart("k", groups), apart("v", groups)
    if has_positions(layer):
        q, k = turned(q, is_local(layer)), turned(k, is_local(layer))
    k, v = (y.repeat_interleave(heads // groups, 1) for y in (k, v))
    scores = q @ k.transpose(-1, -2) * CONFIG.get("attention_multiplier", 1 / math.sqrt(CONFIG.get("query_pre_attn_scalar") or head_size()))
    seen = torch.softmax(scores.masked_fill(hidden[:, None], -math.inf), -1) @ v
    return seen.transpose(1, 2).reshape(batch, length, heads * head_size()) @ w[f"{at}self_attn.o_proj.weight"].T


def given_to_experts(x, w, at, gaps):
    """What the experts make of x[batch, length, hidden], one row after the other; and the loss of this layer for balance."""
    experts, each, names = experts_of()
    logits = x @ w[f"{at}{names[0]}.weight"].T
    probs = torch.softmax(logits, -1)
    order = logits.detach().sort(-1, descending=True)
    gaps.append((order.values[..., each - 1] - order.values[..., each]).min().item())
    out, balance = [], 0.0
    for b in range(x.shape[0]):
        share = torch.bincount(order.indices[b, :, :each].reshape(-1), minlength=experts).double() / (x.shape[1] * each)
        balance = balance + experts * (share * probs[b].mean(0)).sum() / x.shape[0]
        rows = []
        for t in range(x.shape[1]):
            mine = order.indices[b, t, :each]
            row = 0.0
            for weight, e in zip(torch.softmax(logits[b, t, mine], -1), mine.tolist()):
                gate, up, down = (w[f"{at}{name.format(e)}.weight"] for name in names[1:])
                y = gate @ x[b, t]
                row = row + weight * (down @ (y * torch.sigmoid(y) * (up @ x[b, t])))
            rows.append(row)
        out.append(torch.stack(rows))
    return torch.stack(out), balance


def fed_forward(x, w, at):
    gate, up, down = (w[f"{at}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    y = x @ gate.T
    if CONFIG.get("hidden_activation") == "gelu_pytorch_tanh":
        return (0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y ** 3))) * (x @ up.T)) @ down.T
    return (y * torch.sigmoid(y) * (x @ up.T)) @ down.T


def x_last(x, w):
    """What the classifier reads."""
    return normed(x, w["model.norm.weight"]) / CONFIG.get("logits_scaling", 1.0)


def forward(w, ids, gaps, separator=None):
    if is_neox():
        return neox_forward(w, ids)
    w = as_apart(w)
    x, balance = w["model.embed_tokens.weight"][ids], 0.0
    if is_mixed():
        x = x * math.sqrt(CONFIG["hidden_size"])
    x, added = x * CONFIG.get("embedding_multiplier", 1.0), CONFIG.get("residual_multiplier", 1.0)
    for i in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{i}."
        before, behind = norms()
        hidden = unseen(ids, separator, is_local(i) or not is_mixed())

        def by(name, y):
            return normed(y, w[f"{at}{name}.weight"]) if name else y

        x = x + added * by(behind[0], attended(by(before[0], x), w, at, hidden, i))
        y = by(before[1], x)
        made, one = given_to_experts(y, w, at, gaps) if experts_of()[0] else (fed_forward(y, w, at), 0.0)
        x, balance = x + added * by(behind[1], made), balance + one
    x = x_last(x, w)
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T, balance


def rate(step):
    """Linear warm-up, then cosine."""
    schedule, lr = JOB["schedule"], JOB["optimizer"]["lr"]
    if step < schedule["warmup_steps"]:
        return lr * (step + 1) / schedule["warmup_steps"]
    part = (step - schedule["warmup_steps"]) / (schedule["total_steps"] - schedule["warmup_steps"])
    return schedule["min_lr"] + (lr - schedule["min_lr"]) * (1 + math.cos(math.pi * part)) / 2


def save(path, tensors):
    """safetensors: float32 or int32."""
    header, data = {}, b""
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        kind = "F32" if tensor.is_floating_point() else "I32"
        raw = tensor.to(torch.float32 if kind == "F32" else torch.int32).contiguous().numpy().tobytes()
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def train(seed):
    """(smallest gap, initial weights, tokens, logits, gradients of step 0, trace, final weights)"""
    generator = torch.Generator().manual_seed(seed)
    first = weights(generator)
    w = {name: value.clone().requires_grad_() for name, value in first.items()}
    shape = (JOB["steps"], JOB["micro_batches"], JOB["batch"], JOB["seq"] + 1)
    tokens = torch.randint(0, CONFIG["vocab_size"], shape, generator=generator)
    o = JOB["optimizer"]
    groups = [{"params": [v for v in w.values() if (v.dim() > 1) == matrix], "weight_decay": o["weight_decay"] * matrix}
              for matrix in (True, False)]
    adamw = torch.optim.AdamW(groups, lr=o["lr"], betas=tuple(o["betas"]), eps=o["eps"])
    gaps, trace, gradients, logits0 = [], [], None, None
    for step in range(JOB["steps"]):
        adamw.zero_grad()
        total = 0.0
        for ids in tokens[step]:
            logits, balance = forward(w, ids[:, :-1], gaps, JOB.get("separator"))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            ((loss + CONFIG.get("router_aux_loss_coef", 0.0) * balance) / JOB["micro_batches"]).backward()
            total += loss.item() / JOB["micro_batches"]
            logits0 = logits.detach() if logits0 is None else logits0
        if gradients is None:
            gradients = {name: value.grad.clone() for name, value in w.items()}
        norm = torch.nn.utils.clip_grad_norm_(list(w.values()), JOB["clip"]).item()
        for group in adamw.param_groups:
            group["lr"] = rate(step)
        adamw.step()
        trace.append({"step": step, "loss": total, "grad_norm": norm, "lr": rate(step)})
    return min(gaps, default=1.0), first, tokens, logits0, gradients, trace, w


def compare(first, tokens, logits):
    """With transformers, where it is there."""
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        print("transformers is not there: logits are not compared")
        return
    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**CONFIG)).double()
    except ValueError as error:
        print(f"logits are not compared: {error}")
        return
    missing, strange = model.load_state_dict({name: value.clone() for name, value in first.items()}, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not strange, (missing, strange)
    model.tie_weights()
    with torch.no_grad():
        theirs = model(tokens[0, 0][:, :-1]).logits
        if "separator" in JOB:  # which they have not
            logits = forward(first, tokens[0, 0][:, :-1], [])[0]
        if "original_max_position_embeddings" in CONFIG:  # shorter sequences have other positions
            few = tokens[0, 0][:, :CONFIG["original_max_position_embeddings"]]
            differ = (model(few).logits - forward(first, few, [])[0]).abs().max().item()
            print(f"against transformers, {few.shape[1]} tokens: largest difference of a logit {differ:.3g}")
    print(f"against transformers: largest difference of a logit {(theirs - logits).abs().max().item():.3g}")


def make(case, seed):
    CONFIG.clear()
    CONFIG.update(CONFIGS[case])
    JOB.pop("separator", None)
    if case in SEPARATORS:
        JOB["separator"] = SEPARATORS[case]
    while (run := train(seed))[0] < LEAST_GAP:
        seed += 1
    gap, first, tokens, logits, gradients, trace, last = run
    print(f"{case}: seed {seed}, smallest gap {gap:.3g}, loss {trace[0]['loss']:.6f} to {trace[-1]['loss']:.6f}")
    compare(first, tokens, logits)
    out = HERE / case
    out.mkdir(exist_ok=True)
    save(out / "model.safetensors", first)
    save(out / "tokens.safetensors", {"tokens": tokens})
    save(out / "expected.safetensors", {"logits": logits, **{f"grad.{n}": v for n, v in gradients.items()}, **{f"final.{n}": v for n, v in last.items()}})
    for name, value in (("config", CONFIG), ("job", JOB), ("expected", trace)):
        (out / f"{name}.json").write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("cases", nargs="*", default=[*CONFIGS], help="all, if none is named")
    for name in parser.parse_args().cases:
        make(name, parser.parse_args().seed)
