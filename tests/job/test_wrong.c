/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_wrong.c - jobs that are wrong: each ends with one sentence, at its place.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/job/jobs.h"

/* A model with experts; the map of its shape is open. */
#define MIXTRAL                                                                                    \
    "name: t\n"                                                                                    \
    "data: {train: a.txt}\ntrain: {steps: 3, global_batch: 2, micro_batch: 2}\noptim: {lr: "       \
    "1e-3}\n"                                                                                      \
    "model: {arch: mixtral, layers: 2, hidden: 64, heads: 4, context: 32, ffn: 48"

/* clang-format off */
static const struct wrong {
    const char *text, *override;
    int code;
    const char *message;
} wrongs[] = {
    {"", NULL, EINVAL,
     "job.yaml:1:1: the document is empty"},
    {"# only a comment\n", NULL, EINVAL,
     "job.yaml:1:1: the document is empty"},
    {"---\n...\n", NULL, EINVAL,
     "job.yaml:1:1: the document is empty"},
    {"just text\n", NULL, EINVAL,
     "job.yaml:1:1: the document must be a map of keys, not text"},
    {"- a\n- b\n", NULL, EINVAL,
     "job.yaml:1:1: the document must be a map of keys, not a list"},
    {SMALL "---\nname: u\n", NULL, EINVAL,
     "job.yaml:14:1: a second document is not allowed"},
    {SMALL "seed: &a 1\n", NULL, EINVAL,
     "job.yaml:14:7: anchor '&a' is not allowed"},
    {SMALL "seed: *a\n", NULL, EINVAL,
     "job.yaml:14:7: alias '*a' is not allowed; put text that starts with '*' in quotes"},
    {SMALL "seed: !!int 1\n", NULL, EINVAL,
     "job.yaml:14:7: tag 'tag:yaml.org,2002:int' is not allowed"},
    {SMALL "<<: {seed: 1}\n", NULL, EINVAL,
     "job.yaml:14:1: merge key '<<' is not allowed; write the keys out"},
    {SMALL "seed: 1\nseed: 2\n", NULL, EINVAL,
     "job.yaml:15:1: key 'seed' is already set on line 14"},
    {SMALL "name: u\n", NULL, EINVAL,
     "job.yaml:14:1: key 'name' is already set on line 1"},
    {SMALL "? [a]\n: b\n", NULL, EINVAL,
     "job.yaml:14:3: a key must be text, not a list"},
    {SMALL "eval: {every: 0\n", NULL, EINVAL,
     "job.yaml:15:1: not valid YAML: did not find expected ',' or '}' while parsing a flow mapping"},
    {SMALL "eval:\n\tevery: 1\n", NULL, EINVAL,
     "job.yaml:15:1: not valid YAML: found character that cannot start any token while scanning for the next token"},
    {SMALL "run_dir: a\001b\n", NULL, EINVAL,
     "job.yaml:14:11: control character U+0001 is not allowed"},
    {SMALL "run_dir: \377b\n", NULL, EINVAL,
     "job.yaml:14:10: byte 0xff is not valid UTF-8"},
    {SMALL "run_dir: \"a\\0b\"\n", NULL, EINVAL,
     "job.yaml:14:10: text must not hold a NUL"},
    {SMALL "optim:\n  lr_rate: 1\n", NULL, EINVAL,
     "job.yaml:15:3: unknown key 'optim.lr_rate', did you mean 'optim.lr'?"},
    {SMALL "optmi: {}\n", NULL, EINVAL,
     "job.yaml:14:1: unknown key 'optmi', did you mean 'optim'?"},
    {SMALL "steps: 3\n", NULL, EINVAL,
     "job.yaml:14:1: unknown key 'steps', did you mean 'train.steps'?"},
    {SMALL "eval: {evry: 1}\n", NULL, EINVAL,
     "job.yaml:14:8: unknown key 'eval.evry', did you mean 'eval.every'?"},
    {SMALL "eval: {batch: 1}\n", NULL, EINVAL,
     "job.yaml:14:8: unknown key 'eval.batch', did you mean 'eval.batches'?"},
    {SMALL "eval: {completely_else: 1}\n", NULL, EINVAL,
     "job.yaml:14:8: unknown key 'eval.completely_else'; known in 'eval' are every, batches"},
    {SMALL "deepspeed: 1\n", NULL, EINVAL,
     "job.yaml:14:1: unknown key 'deepspeed'; known are name, seed, run_dir, model, data, train, lora, optim, schedule, precision, parallel, zero, offload, activation, checkpoint, eval, log, guard, launch"},
    {SMALL "eval.every: 1\n", NULL, EINVAL,
     "job.yaml:14:1: key 'eval.every' holds a dot; nest the keys instead"},
    {SMALL "eval: 3\n", NULL, EINVAL,
     "job.yaml:14:7: 'eval' must be a map of keys such as 'eval.every'"},
    {SMALL "eval:\n", NULL, EINVAL,
     "job.yaml:14:1: 'eval' must be a map of keys such as 'eval.every'"},
    {SMALL "  epochs: 2\n", NULL, EINVAL,
     "job.yaml:14:11: 'train.steps' and 'train.epochs' both say how long the run is; leave one out"},
    {SMALL, "train.epochs=0", EINVAL,
     "override 'train.epochs=0': 'train.epochs' must be a number between 1e-06 and 1000000, not '0'"},
    {SMALL "optim: {lr: 1.0e-3}\nschedule: {min_lr: 1.0e-2}\n", "train.epochs=1", EINVAL,
     "job.yaml:15:20: 'schedule.min_lr' must be at most 'optim.lr' 0.001, not 0.01"},
    {SMALL, "train.steps=0", EINVAL,
     "override 'train.steps=0': 'train.steps' must be a whole number between 1 and 1000000000, not '0'"},
    {SMALL, "train.steps=-1", EINVAL,
     "override 'train.steps=-1': 'train.steps' must be a whole number between 1 and 1000000000, not '-1'"},
    {SMALL, "train.steps=1000000001", EINVAL,
     "override 'train.steps=1000000001': 'train.steps' must be a whole number between 1 and 1000000000, not '1000000001'"},
    {SMALL, "train.steps=99999999999999999999999", EINVAL,
     "override 'train.steps=99999999999999999999999': 'train.steps' must be a whole number between 1 and 1000000000, not '99999999999999999999999'"},
    {SMALL, "train.steps=1e5", EINVAL,
     "override 'train.steps=1e5': 'train.steps' must be written in plain digits: 100000, not '1e5'"},
    {SMALL, "train.steps=10.0", EINVAL,
     "override 'train.steps=10.0': 'train.steps' must be written in plain digits: 10, not '10.0'"},
    {SMALL, "train.steps=10.5", EINVAL,
     "override 'train.steps=10.5': 'train.steps' must be a whole number between 1 and 1000000000, not '10.5'"},
    {SMALL, "train.steps=0777", EINVAL,
     "override 'train.steps=0777': 'train.steps' must be a whole number between 1 and 1000000000, not '0777'"},
    {SMALL, "train.steps=0x10", EINVAL,
     "override 'train.steps=0x10': 'train.steps' must be a whole number between 1 and 1000000000, not '0x10'"},
    {SMALL, "train.steps=1_000", EINVAL,
     "override 'train.steps=1_000': 'train.steps' must be a whole number between 1 and 1000000000, not '1_000'"},
    {SMALL, "train.steps=+5", EINVAL,
     "override 'train.steps=+5': 'train.steps' must be written in plain digits: 5, not '+5'"},
    {SMALL, "train.steps=yes", EINVAL,
     "override 'train.steps=yes': 'train.steps' must be a whole number between 1 and 1000000000, not 'yes'"},
    {SMALL, "train.steps=auto", EINVAL,
     "override 'train.steps=auto': 'train.steps' must be a whole number between 1 and 1000000000, not 'auto'"},
    {SMALL, "train.steps=\"5\"", EINVAL,
     "override 'train.steps=\"5\"': 'train.steps' must be a number without quotes"},
    {SMALL, "train.steps=[5]", EINVAL,
     "override 'train.steps=[5]': 'train.steps' must be a number, not a list"},
    {SMALL, "train.steps={a: 5}", EINVAL,
     "override 'train.steps={a: 5}': 'train.steps' must be a number, not a map"},
    {SMALL, "train.steps=~", EINVAL,
     "override 'train.steps=~': 'train.steps' has no value; it must be a number"},
    {SMALL "log:\n  every:\n", NULL, EINVAL,
     "job.yaml:15:9: 'log.every' has no value; it must be a number"},
    {SMALL "seed: 9007199254740993\n", NULL, EINVAL,
     "job.yaml:14:7: 'seed' must be a whole number between 0 and 9007199254740992, not '9007199254740993'"},
    {SMALL, "optim.lr=.5", EINVAL,
     "override 'optim.lr=.5': 'optim.lr' must be written as 0.5, not '.5'"},
    {SMALL, "optim.lr=1.", EINVAL,
     "override 'optim.lr=1.': 'optim.lr' must be written as 1, not '1.'"},
    {SMALL, "optim.lr=inf", EINVAL,
     "override 'optim.lr=inf': 'optim.lr' must be a number between 0 and 1000, not 'inf'"},
    {SMALL, "optim.lr=.inf", EINVAL,
     "override 'optim.lr=.inf': 'optim.lr' must be a number between 0 and 1000, not '.inf'"},
    {SMALL, "optim.lr=nan", EINVAL,
     "override 'optim.lr=nan': 'optim.lr' must be a number between 0 and 1000, not 'nan'"},
    {SMALL, "optim.lr=.nan", EINVAL,
     "override 'optim.lr=.nan': 'optim.lr' must be a number between 0 and 1000, not '.nan'"},
    {SMALL, "optim.lr=0x1p3", EINVAL,
     "override 'optim.lr=0x1p3': 'optim.lr' must be a number between 0 and 1000, not '0x1p3'"},
    {SMALL, "optim.lr=1e", EINVAL,
     "override 'optim.lr=1e': 'optim.lr' must be a number between 0 and 1000, not '1e'"},
    {SMALL, "optim.lr=1e+", EINVAL,
     "override 'optim.lr=1e+': 'optim.lr' must be a number between 0 and 1000, not '1e+'"},
    {SMALL, "optim.lr=--1", EINVAL,
     "override 'optim.lr=--1': 'optim.lr' must be a number between 0 and 1000, not '--1'"},
    {SMALL, "optim.lr=-", EINVAL,
     "override 'optim.lr=-': 'optim.lr' must be a number between 0 and 1000, not '-'"},
    {SMALL, "optim.lr=1e400", EINVAL,
     "override 'optim.lr=1e400': 'optim.lr' must be a number between 0 and 1000, not '1e400'"},
    {SMALL, "optim.lr=1001", EINVAL,
     "override 'optim.lr=1001': 'optim.lr' must be a number between 0 and 1000, not '1001'"},
    {SMALL, "optim.lr=-0.1", EINVAL,
     "override 'optim.lr=-0.1': 'optim.lr' must be a number between 0 and 1000, not '-0.1'"},
    {SMALL, "optim.lr=00.5", EINVAL,
     "override 'optim.lr=00.5': 'optim.lr' must be a number between 0 and 1000, not '00.5'"},
    {SMALL, "optim.lr=1,5", EINVAL,
     "override 'optim.lr=1,5': 'optim.lr' must be a number between 0 and 1000, not '1,5'"},
    {SMALL, "optim.betas=0.9", EINVAL,
     "override 'optim.betas=0.9': 'optim.betas' must be a list of two numbers"},
    {SMALL, "optim.betas=[0.9]", EINVAL,
     "override 'optim.betas=[0.9]': 'optim.betas' must be a list of two numbers"},
    {SMALL, "optim.betas=[0.9, 1]", EINVAL,
     "override 'optim.betas=[0.9, 1]': 'optim.betas' must be a number at least 0 and below 1, not '1'"},
    {SMALL, "optim.betas=[0.9, x]", EINVAL,
     "override 'optim.betas=[0.9, x]': 'optim.betas' must be a number at least 0 and below 1, not 'x'"},
    {SMALL, "optim.betas=[0.9", EINVAL,
     "override 'optim.betas=[0.9': value:2:1: not valid YAML: did not find expected ',' or ']' while parsing a flow sequence"},
    {SMALL, "model.tie_embeddings=yes", EINVAL,
     "override 'model.tie_embeddings=yes': 'model.tie_embeddings' must be true or false, not 'yes'"},
    {SMALL, "model.tie_embeddings=True", EINVAL,
     "override 'model.tie_embeddings=True': 'model.tie_embeddings' must be true or false, not 'True'"},
    {SMALL, "model.tie_embeddings=\"true\"", EINVAL,
     "override 'model.tie_embeddings=\"true\"': 'model.tie_embeddings' must be true or false without quotes"},
    {SMALL, "model.arch=bert", EINVAL,
     "override 'model.arch=bert': 'model.arch' must be 'gpt2', 'llama', 'mixtral', 'qwen2', 'qwen3', 'qwen3_moe', 'phi3', 'olmo2', 'gemma3', 'smollm3', 'granite' or 'gpt_neox', not 'bert'"},
    {SMALL, "model.window=8", EINVAL,
     "override 'model.window=8': 'model.window' is not for gpt2, whose published models have none; leave it out"},
    {SMALL, "data.documents=apart", EINVAL,
     "override 'data.documents=apart': 'data.documents' apart needs 'data.separator', the id of the token that ends a document; a tokenizer.json in 'data.tokenizer' has one"},
    {"name: x\nmodel: {arch: gpt2, layers: 1, hidden: 64, heads: 1, context: 32}\ndata: {train: a.txt, documents: apart}\n"
     "train: {steps: 1, global_batch: 1, micro_batch: 1}\n", "data.separator=256", EINVAL,
     "override 'data.separator=256': 'data.separator' 256 must be below 'model.vocab' 256"},
    {SMALL, "model.rope_scaling.type=linear", EINVAL,
     "override 'model.rope_scaling.type=linear': 'model.rope_scaling.type' is not for gpt2, which has learned positions; leave it out"},
    {MIXTRAL "}\n", "model.rope_scaling.type=dynamic", EINVAL,
     "override 'model.rope_scaling.type=dynamic': 'model.rope_scaling.type' must be 'none', 'linear', 'llama3', 'yarn' or 'longrope', not 'dynamic'"},
    {MIXTRAL "}\n", "model.rope_scaling.type=yarn", EINVAL,
     "override 'model.rope_scaling.type=yarn': 'model.rope_scaling.type' yarn needs 'model.rope_scaling.factor'; set it to how many times as long the context has become"},
    {MIXTRAL ", rope_scaling: {type: yarn, factor: 4}}\n", NULL, EINVAL,
     "job.yaml:5:100: 'model.rope_scaling.type' yarn needs 'model.rope_scaling.original_context'; set it to the context that the model was made for first"},
    {MIXTRAL ", rope_scaling: {type: yarn, factor: 4, original_context: 16, beta_fast: 1}}\n", NULL, EINVAL,
     "job.yaml:5:79: 'model.rope_scaling.beta_slow' 1 must be below 'model.rope_scaling.beta_fast' 1"},
    {MIXTRAL ", rope_theta: 1, rope_scaling: {type: yarn, factor: 4, original_context: 16}}\n", NULL, EINVAL,
     "job.yaml:5:91: 'model.rope_theta' must be above 1 for yarn"},
    {MIXTRAL ", rope_scaling: {type: yarn, factor: 4, original_context: 16, low_freq_factor: 2}}\n", NULL, EINVAL,
     "job.yaml:5:156: 'model.rope_scaling.low_freq_factor' says nothing to 'model.rope_scaling.type' yarn; leave it out"},
    {MIXTRAL ", rope_scaling: {type: llama3, factor: 8, beta_fast: 16}}\n", NULL, EINVAL,
     "job.yaml:5:130: 'model.rope_scaling.beta_fast' says nothing to 'model.rope_scaling.type' llama3; leave it out"},
    {MIXTRAL "}\n", "model.rope_scaling.attention_factor=1.1", EINVAL,
     "override 'model.rope_scaling.attention_factor=1.1': 'model.rope_scaling.attention_factor' says nothing to 'model.rope_scaling.type' none; set that to linear, llama3, yarn or longrope"},
    {MIXTRAL "}\n", "model.rope_scaling.type=llama3", EINVAL,
     "override 'model.rope_scaling.type=llama3': 'model.rope_scaling.type' llama3 needs 'model.rope_scaling.factor'; set it to how many times as long the context has become"},
    {MIXTRAL "}\n", "model.rope_scaling.factor=8", EINVAL,
     "override 'model.rope_scaling.factor=8': 'model.rope_scaling.factor' says nothing to 'model.rope_scaling.type' none; set that to linear, llama3, yarn or longrope"},
    {MIXTRAL ", rope_scaling: {type: linear, factor: 2, high_freq_factor: 5}}\n", NULL, EINVAL,
     "job.yaml:5:137: 'model.rope_scaling.high_freq_factor' says nothing to 'model.rope_scaling.type' linear; leave it out"},
    {MIXTRAL ", rope_scaling: {type: llama3, factor: 8, low_freq_factor: 4}}\n", NULL, EINVAL,
     "job.yaml:5:136: 'model.rope_scaling.low_freq_factor' 4 must be below 'model.rope_scaling.high_freq_factor' 4"},
    {SMALL, "model.experts=4", EINVAL,
     "override 'model.experts=4': 'model.experts' is for mixtral and qwen3_moe, not for gpt2; leave it out"},
    {SMALL, "model.experts_per_token=1", EINVAL,
     "override 'model.experts_per_token=1': 'model.experts_per_token' is for mixtral and qwen3_moe, not for gpt2; leave it out"},
    {SMALL, "model.expert_balance=0.1", EINVAL,
     "override 'model.expert_balance=0.1': 'model.expert_balance' is for mixtral and qwen3_moe, not for gpt2; leave it out"},
    {MIXTRAL "}\n", "model.experts=257", EINVAL,
     "override 'model.experts=257': 'model.experts' must be a whole number between 0 and 256, not '257'"},
    {MIXTRAL "}\n", "model.experts=0", EINVAL,
     "override 'model.experts=0': 'model.experts' must be at least 1 for mixtral; a model without experts is a llama"},
    {MIXTRAL ", experts: 2, experts_per_token: 3}\n", NULL, EINVAL,
     "job.yaml:5:110: 'model.experts_per_token' must be between 1 and 'model.experts' 2, not 3"},
    {MIXTRAL "}\n", "model.experts_per_token=0", EINVAL,
     "override 'model.experts_per_token=0': 'model.experts_per_token' must be between 1 and 'model.experts' 8, not 0"},
    {MIXTRAL "}\n", "model.head_size=15", EINVAL,
     "override 'model.head_size=15': 'model.head_size' must be even for mixtral, not 15"},
    {SMALL, "model.head_size=32", EINVAL,
     "override 'model.head_size=32': 'model.head_size' must be 'model.hidden' / 'model.heads', 16, for gpt2, not 32"},
    {MIXTRAL "}\n", "model.expert_balance=-1", EINVAL,
     "override 'model.expert_balance=-1': 'model.expert_balance' must be a number between 0 and 10, not '-1'"},
    {MIXTRAL "}\nprecision: {compute: bf16, matmul: fp8}\n", NULL, ENOTSUP,
     "job.yaml:6:36: 'precision.matmul' fp8 is not supported for models with experts, which have products of their own; use compute"},
    {SMALL, "launch.threads=0", EINVAL,
     "override 'launch.threads=0': 'launch.threads' must be 'auto' or a whole number between 1 and 1024, not '0'"},
    {SMALL, "launch.device=tpu", EINVAL,
     "override 'launch.device=tpu': 'launch.device' must be 'auto', 'cpu' or 'cuda', not 'tpu'"},
    {SMALL, "launch.env=A", EINVAL,
     "override 'launch.env=...': 'launch.env' must be a map of names and texts, not text"},
    {SMALL, "launch.env={1A: b}", EINVAL,
     "override 'launch.env=...': '1A' in 'launch.env' is not a name of an environment variable; use letters, digits and '_'"},
    {SMALL, "launch.env={A: [b]}", EINVAL,
     "override 'launch.env=...': 'launch.env' must be text, not a list"},
    {SMALL, "launch.env={RANK: 3}", EINVAL,
     "override 'launch.env=...': 'RANK' in 'launch.env' is set by dsrun itself; leave it out"},
    {SMALL, "log.sinks=[console, disk]", EINVAL,
     "override 'log.sinks=[console, disk]': 'log.sinks' must be 'console', 'jsonl', 'csv' or 'tensorboard', not 'disk'"},
    {SMALL, "launch.restart_on=[nccl]", EINVAL,
     "override 'launch.restart_on=[nccl]': 'launch.restart_on' must be 'host-lost', 'start', 'rank', 'comm', 'hang', "
     "'launcher', 'oom', 'disk-full' or 'input', not 'nccl'"},
    {SMALL, "launch.restart_backoff=-1", EINVAL,
     "override 'launch.restart_backoff=-1': 'launch.restart_backoff' must be a number between 0 and 86400, not '-1'"},
    {SMALL, "run_dir=", EINVAL,
     "override 'run_dir=': 'run_dir' has no value; it must be text"},
    {SMALL, "run_dir=''", EINVAL,
     "override 'run_dir=''': 'run_dir' must not be empty"},
    {SMALL, "name=null", EINVAL,
     "override 'name=null': 'name' has no value; it must be text"},
    {SMALL, "name=a/b", EINVAL,
     "override 'name=a/b': 'name' must be of letters, digits, '.', '_' and '-' and not start with '.', not 'a/b'"},
    {SMALL, "name=..", EINVAL,
     "override 'name=..': 'name' must be of letters, digits, '.', '_' and '-' and not start with '.', not '..'"},
    {SMALL, "name=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", EINVAL,
     "override 'name=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa': 'name' must be at most 64 bytes long, not 65"},
    {SMALL, "data.train=[a, {path: b, weight: 0}]", EINVAL,
     "override 'data.train=[a, {path: b, weight: 0}]': 'data.train' item 2: 'weight' must be a number between 1e-06 and 1000000, not '0'"},
    {SMALL, "data.train=[a, {path: b, weight: -1}]", EINVAL,
     "override 'data.train=[a, {path: b, weight: -1}]': 'data.train' item 2: 'weight' must be a number between 1e-06 and 1000000, not '-1'"},
    {SMALL, "data.train=[a, {path: b, weight: nan}]", EINVAL,
     "override 'data.train=[a, {path: b, weight: nan}]': 'data.train' item 2: 'weight' must be a number between 1e-06 and 1000000, not 'nan'"},
    {SMALL, "data.train=[a, {path: b, weight: 1e7}]", EINVAL,
     "override 'data.train=[a, {path: b, weight: 1e7}]': 'data.train' item 2: 'weight' must be a number between 1e-06 and 1000000, not '1e7'"},
    {SMALL, "data.train=[a, {path: b, weight: 0.3333333}]", EINVAL,
     "override 'data.train=[a, {path: b, weight: 0.3333333}]': 'data.train': weight 0.3333333 has more than six digits behind the point; use 0.333333"},
    {SMALL, "data.train=[{path: a, weight: 1000000}, {path: b, weight: 0.7}]", EINVAL,
     "override 'data.train=[{path: a, weight: 1000000}, {path: b, weight: 0.7}]': 'data.train': the order of these weights repeats after 10000007 sequences, which may be 1048576 at most; give them fewer digits"},
    {SMALL, "data.train=[{weight: 2}]", EINVAL,
     "override 'data.train=[{weight: 2}]': 'data.train' item 1: 'path' is required"},
    {SMALL, "data.train={weight: 2}", EINVAL,
     "override 'data.train={weight: 2}': 'data.train' item 1: 'path' is required"},
    {SMALL, "data.train=[a, {path: b, wieght: 2}]", EINVAL,
     "override 'data.train=[a, {path: b, wieght: 2}]': 'data.train' item 2: unknown key 'wieght', did you mean 'weight'?"},
    {SMALL, "data.train=[a, {path: b, order: shuffle}]", EINVAL,
     "override 'data.train=[a, {path: b, order: shuffle}]': 'data.train' item 2: unknown key 'order'; known are path, weight"},
    {SMALL, "data.train=[{path: a}, [b]]", EINVAL,
     "override 'data.train=[{path: a}, [b]]': 'data.train' item 2: must be a text or a map of keys, not a list"},
    {SMALL, "data.train=[{path: a}, null]", EINVAL,
     "override 'data.train=[{path: a}, null]': 'data.train' item 2: 'path' has no value; it must be a list of texts"},
    {SMALL, "data.train=[{path: a}, {path: []}]", EINVAL,
     "override 'data.train=[{path: a}, {path: []}]': 'data.train' item 2: 'path' must name at least one file"},
    {SMALL, "data.train=[{path: a}, {path: [b, {path: c}]}]", EINVAL,
     "override 'data.train=[{path: a}, {path: [b, {path: c}]}]': 'data.train' item 2: 'path' must be a list of texts, not a map"},
    {"data:\n  train:\n    - {path: a}\n    - path: b\n      wieght: 2\n", NULL, EINVAL,
     "job.yaml:5:7: 'data.train' item 2: unknown key 'wieght', did you mean 'weight'?"},
    {"data:\n  train:\n    - {path: a}\n    - path: b\n      weight: 0\n", NULL, EINVAL,
     "job.yaml:5:15: 'data.train' item 2: 'weight' must be a number between 1e-06 and 1000000, not '0'"},
    {"data:\n  train:\n    - a\n    - {weight: 3}\n", NULL, EINVAL,
     "job.yaml:4:7: 'data.train' item 2: 'path' is required"},
    {"data:\n  valid:\n    - {path: a}\n    - [b]\n", NULL, EINVAL,
     "job.yaml:4:7: 'data.valid' item 2: must be a text or a map of keys, not a list"},
    {SMALL, "data.train=[]", EINVAL,
     "override 'data.train=[]': 'data.train' must name at least one file"},
    {SMALL, "data.train=[a, [b]]", EINVAL,
     "override 'data.train=[a, [b]]': 'data.train' must be a list of texts, not a list"},
    {SMALL, "parallel.tensor=3", EINVAL,
     "override 'parallel.tensor=3': 'parallel.tensor' 3 must divide 'model.heads' 4; 2 or 4 would do"},
    {SMALL "parallel: {tensor: 2}\n", "parallel.sequence=4", EINVAL,
     "override 'parallel.sequence=4': 'parallel.sequence' 4 must divide 'model.heads' / 'parallel.tensor', 2; 2 would do"},
    {"name: t\nmodel: {arch: gpt2, layers: 1, hidden: 64, heads: 32, context: 32}\ndata: {train: [a.txt]}\n"
     "train: {steps: 1, global_batch: 1, micro_batch: 1}\nparallel: {tensor: 32}\n",
     NULL, EINVAL,
     "job.yaml:5:20: 'parallel.tensor' 32 is too many for 'model.vocab' 256, of which each rank has a part"},
    {SMALL, "parallel.expert=8", EINVAL,
     "override 'parallel.expert=8': 'parallel.expert' 8 divides experts, and 'model.arch' gpt2 has none; use 1, or an arch with experts: mixtral or qwen3_moe"},
    {SMALL, "activation.recompute=some", EINVAL,
     "override 'activation.recompute=some': 'activation.recompute' must be 'none', 'selective', 'full' or 'auto', not 'some'"},
    {SMALL, "activation.layers=1", EINVAL,
     "override 'activation.layers=1': 'activation.layers' is for 'activation.recompute' selective or full; leave it out"},
    {SMALL "activation: {recompute: full, layers: 3}\n", NULL, EINVAL,
     "job.yaml:14:39: 'activation.layers' must be at most 'model.layers' 2, not 3"},
    {SMALL, "precision.compute=fp8", EINVAL,
     "override 'precision.compute=fp8': 'precision.compute' must be 'fp32', 'bf16' or 'fp16', not 'fp8'"},
    {SMALL, "precision.matmul=bf16", EINVAL,
     "override 'precision.matmul=bf16': 'precision.matmul' must be 'compute' or 'fp8', not 'bf16'"},
    {SMALL, "precision.matmul=fp8", EINVAL,
     "override 'precision.matmul=fp8': 'precision.matmul' fp8 needs 'precision.compute' bf16; set it"},
    {SMALL "precision: {matmul: fp8, compute: fp16}\n", NULL, EINVAL,
     "job.yaml:14:21: 'precision.matmul' fp8 needs 'precision.compute' bf16; set it"},
    {SMALL "precision: {matmul: fp8, compute: bf16}\n", "model.hidden=72", EINVAL,
     "override 'model.hidden=72': 'model.hidden' must be a multiple of 16 for 'precision.matmul' fp8, not 72; 64 or 80 would do"},
    {SMALL "precision: {matmul: fp8, compute: bf16}\n", "model.ffn=100", EINVAL,
     "override 'model.ffn=100': 'model.ffn' must be a multiple of 16 for 'precision.matmul' fp8, not 100; 96 or 112 would do"},
    {SMALL "precision: {matmul: fp8, compute: bf16}\n", "train.sequence=5", EINVAL,
     "override 'train.sequence=5': 'train.micro_batch' 8 x 'train.sequence' 5 tokens must be a multiple of 16 for 'precision.matmul' fp8; a micro_batch of 16 would do"},
    {"name: t\n"
     "model: {arch: llama, layers: 1, hidden: 48, heads: 12, kv_heads: 1, ffn: 64, context: 32}\n"
     "data: {train: [a.txt]}\n"
     "train: {steps: 1, global_batch: 8, micro_batch: 8}\n"
     "precision: {matmul: fp8, compute: bf16}\n", NULL, EINVAL,
     "job.yaml:2:66: 'model.kv_heads' 1 x 4, the size of a head, must be a multiple of 8 for 'precision.matmul' fp8"},
    {SMALL "precision: {matmul: fp8, compute: bf16}\nparallel: {tensor: 4}\n", "model.hidden=32", EINVAL,
     "job.yaml:6:10: 'model.heads' 4 x 8, the size of a head, must be a multiple of 64 for 'precision.matmul' fp8"},
    {"name: t\ndata: {train: [a.txt]}\n"
     "model: {arch: qwen3, layers: 1, hidden: 64, heads: 2, kv_heads: 2, head_size: 4, ffn: 64, context: 32}\n"
     "train: {steps: 1, global_batch: 8, micro_batch: 8}\n"
     "precision: {matmul: fp8, compute: bf16}\n", NULL, EINVAL,
     "job.yaml:3:52: 'model.heads' 2 x 4, the size of a head, must be a multiple of 16 for 'precision.matmul' fp8"},
    {SMALL, "precision.loss_scale=8", EINVAL,
     "override 'precision.loss_scale=8': 'precision.loss_scale' is for 'precision.compute' fp16; leave it out"},
    {SMALL, "precision.loss_scale=0", EINVAL,
     "override 'precision.loss_scale=0': 'precision.loss_scale' must be 'auto' or a whole number between 1 and 16777216, not '0'"},
    {SMALL "precision: {compute: fp16, scaler: {init_power: 3, min: 9}}\n", NULL, EINVAL,
     "job.yaml:14:57: 'precision.scaler.min' 9 must be at most 2 to the 'precision.scaler.init_power' 3"},
    {SMALL, "log.sinks=[tensorbord]", EINVAL,
     "override 'log.sinks=[tensorbord]': 'log.sinks' must be 'console', 'jsonl', 'csv' or 'tensorboard', not 'tensorbord'"},
    {SMALL, "data.tokenizer=none/tokenizer.json", ENOENT,
     "override 'data.tokenizer=none/tokenizer.json': cannot open 'none/tokenizer.json': No such file or directory"},
    {SMALL, "data.tokenizer=tests/reference/gpt2-tiny/job.json", EBADMSG,
     "override 'data.tokenizer=tests/reference/gpt2-tiny/job.json': 'tests/reference/gpt2-tiny/job.json' has no vocabulary of 1 to 16777216 ids"},
    {"name: t\nmodel: {arch: gpt2, layers: 1, hidden: 8, heads: 1, context: 8, vocab: 9}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\n"
     "data: {train: [a.txt, b.bin], tokenizer: t.json}\n", NULL, EINVAL,
     "job.yaml:4:42: 'data.tokenizer' is for text, and 'b.bin' says that there are ids; leave the tokenizer out"},
    {"name: t\nmodel: {arch: gpt2, layers: 1, hidden: 8, heads: 1, context: 8, vocab: 9}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\n"
     "data: {train: [a.txt], format: tokens, tokenizer: t.json}\n", NULL, EINVAL,
     "job.yaml:4:51: 'data.tokenizer' is for text, and 'data.format' says that there are ids; leave the tokenizer out"},
    {SMALL, "optim.name=lyon", EINVAL,
     "override 'optim.name=lyon': 'optim.name' must be 'adamw', 'adam', 'sgd', 'lion', 'adagrad', 'lamb' or 'muon', not 'lyon'"},
    {SMALL, "optim.adamw_lr=0.1", EINVAL,
     "override 'optim.adamw_lr=0.1': 'optim.adamw_lr' means nothing to adamw; leave it out"},
    {SMALL, "optim.muon_scale=adamw", EINVAL,
     "override 'optim.muon_scale=adamw': 'optim.muon_scale' means nothing to adamw; leave it out"},
    {SMALL "optim: {name: muon, adamw_lr: 0.1}\n", "optim.lr=0", EINVAL,
     "job.yaml:14:31: 'optim.adamw_lr' follows the schedule of 'optim.lr', which must be above 0"},
    {SMALL, "optim.momentum=0.9", EINVAL,
     "override 'optim.momentum=0.9': 'optim.momentum' means nothing to adamw; leave it out"},
    {SMALL, "model.dropout=1", EINVAL,
     "override 'model.dropout=1': 'model.dropout' must be a number at least 0 and below 1, not '1'"},
    {SMALL, "model.dropout=-0.1", EINVAL,
     "override 'model.dropout=-0.1': 'model.dropout' must be a number at least 0 and below 1, not '-0.1'"},
    {SMALL, "model.attention_dropout=1", EINVAL,
     "override 'model.attention_dropout=1': 'model.attention_dropout' must be a number at least 0 and below 1, not '1'"},
    {SMALL, "model.dropout=10%", EINVAL,
     "override 'model.dropout=10%': 'model.dropout' must be a number at least 0 and below 1, not '10%'"},
    {SMALL, "optim.momentum=1", EINVAL,
     "override 'optim.momentum=1': 'optim.momentum' must be a number at least 0 and below 1, not '1'"},
    {SMALL "optim: {name: sgd, nesterov: true}\n", NULL, EINVAL,
     "job.yaml:14:30: 'optim.nesterov' needs 'optim.momentum' above 0; 0.9 is usual"},
    {SMALL "optim: {name: sgd, betas: [0.9, 0.9]}\n", NULL, EINVAL,
     "job.yaml:14:27: 'optim.betas' means nothing to sgd; leave it out"},
    {SMALL "optim: {name: lion, eps: 1e-3}\n", NULL, EINVAL,
     "job.yaml:14:26: 'optim.eps' means nothing to lion; leave it out"},
    {SMALL, "optim.groups=[{lr_mult: 2}]", EINVAL,
     "override 'optim.groups=[{lr_mult: 2}]': 'optim.groups' item 1: 'match' is required"},
    {SMALL, "optim.groups=[{match: a, lr_mult: -1}]", EINVAL,
     "override 'optim.groups=[{match: a, lr_mult: -1}]': 'optim.groups' item 1: 'lr_mult' must be a number between 0 and 1000, not '-1'"},
    {SMALL, "optim.groups=[{match: a, wd: 1}]", EINVAL,
     "override 'optim.groups=[{match: a, wd: 1}]': 'optim.groups' item 1: unknown key 'wd'; known are match, lr_mult, weight_decay"},
    {SMALL, "optim.groups=3", EINVAL,
     "override 'optim.groups=3': 'optim.groups' must be a list of maps, not text"},
    {SMALL, "checkpoint.keep_every=250", EINVAL,
     "override 'checkpoint.keep_every=250': 'checkpoint.keep_every' 250 must be a multiple of 'checkpoint.every' 100; 200 or 300 would do"},
    {SMALL "checkpoint: {keep_every: 200}\n", "checkpoint.every=150", EINVAL,
     "override 'checkpoint.every=150': 'checkpoint.keep_every' 200 must be a multiple of 'checkpoint.every' 150; 150 or 300 would do"},
    {SMALL, "zero.stage=4", EINVAL,
     "override 'zero.stage=4': 'zero.stage' must be a whole number between 0 and 3, not '4'"},
    {SMALL, "model.vocab=100", EINVAL,
     "override 'model.vocab=100': 'model.vocab' must be at least 256 for text, not 100"},
    {SMALL, "zero.shard_group=rack", EINVAL,
     "override 'zero.shard_group=rack': 'zero.shard_group' must be 'all' or 'node', not 'rack'"},
    {SMALL, "train.steps", EINVAL,
     "override 'train.steps': not of the form key=value"},
    {SMALL, "=5", EINVAL,
     "override '=5': not of the form key=value"},
    {SMALL, "train=5", EINVAL,
     "override 'train=5': 'train' is a section; override one of its keys, such as 'train.steps'"},
    {SMALL, "train.step=5", EINVAL,
     "override 'train.step=5': unknown key 'train.step', did you mean 'train.steps'?"},
    {SMALL, "run_dir=\377", EINVAL,
     "override 'run_dir=\377': not valid UTF-8"},
    {SMALL, "launch.env.A=b", EINVAL,
     "override 'launch.env.A=b': unknown key 'launch.env.A', did you mean 'launch.env'?"},
    {"model: {arch: gpt2}\n", NULL, EINVAL,
     "job.yaml:1:1: 'name' is required"},
    {"name: t\ndata: {train: a}\ntrain: {global_batch: 1, micro_batch: 1}\n", NULL, EINVAL,
     "job.yaml:3:1: 'train.steps' or 'train.epochs' is required"},
    {"name: t\ndata: {train: a}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\n", NULL, EINVAL,
     "job.yaml:1:1: 'model.arch' is required without 'model.init.from'"},
    {"name: t\ndata: {train: a}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\nmodel: {arch: gpt2, layers: 1, heads: 1, context: 8}\n", NULL, EINVAL,
     "job.yaml:4:1: 'model.hidden' is required without 'model.init.from'"},
    {"name: t\ndata: {train: a}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\nmodel: {arch: llama, layers: 1, hidden: 64, heads: 1, context: 8}\n", NULL, EINVAL,
     "job.yaml:4:1: 'model.ffn' is required for llama; 192 is usual"},
    {"name: t\ndata: {train: a}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\nmodel: {arch: llama, layers: 1, hidden: 12, heads: 4, context: 8, ffn: 8}\n", NULL, EINVAL,
     "job.yaml:4:52: 'model.hidden' / 'model.heads' must be even for llama, not 12 / 4 = 3"},
    {"name: t\ndata: {train: a}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\nmodel: {arch: llama, layers: 1, hidden: 64, heads: 4, kv_heads: 3, context: 8, ffn: 8}\n", NULL, EINVAL,
     "job.yaml:4:65: 'model.kv_heads' 3 must divide 'model.heads' 4; 2 or 4 would do"},
    {SMALL, "model.heads=5", EINVAL,
     "override 'model.heads=5': 'model.heads' 5 must divide 'model.hidden' 64; 4 or 8 would do"},
    {SMALL, "model.heads=100", EINVAL,
     "override 'model.heads=100': 'model.heads' 100 must divide 'model.hidden' 64; 64 would do"},
    {SMALL, "model.kv_heads=2", EINVAL,
     "override 'model.kv_heads=2': 'model.kv_heads' must be 'model.heads' 4 for gpt2, not 2"},
    {SMALL "schedule: {warmup: 101}\n", NULL, EINVAL,
     "job.yaml:14:20: 'schedule.warmup' must be at most 'train.steps' 100, not 101, unless 'schedule.steps' is given"},
    {SMALL "schedule: {warmup: 20}\n", "train.steps=10", EINVAL,
     "override 'train.steps=10': 'schedule.warmup' must be at most 'train.steps' 10, not 20, unless 'schedule.steps' is given"},
    {SMALL "schedule: {warmup: 20, steps: 10}\n", NULL, EINVAL,
     "job.yaml:14:20: 'schedule.warmup' must be at most 'schedule.steps' 10, not 20"},
    {SMALL, "schedule.min_lr=0.5", EINVAL,
     "override 'schedule.min_lr=0.5': 'schedule.min_lr' must be at most 'optim.lr' 0.0003, not 0.5"},
    {SMALL, "schedule.start_lr=0.5", EINVAL,
     "override 'schedule.start_lr=0.5': 'schedule.start_lr' must be at most 'optim.lr' 0.0003, not 0.5"},
    {SMALL, "schedule.kind=cos", EINVAL,
     "override 'schedule.kind=cos': 'schedule.kind' must be 'constant', 'linear', 'cosine', 'wsd', 'one_cycle', 'warmup_lr', 'warmup_decay_lr', 'polynomial' or 'inverse_sqrt', not 'cos'"},
    {SMALL, "schedule.power=2", EINVAL,
     "override 'schedule.power=2': 'schedule.power' is for polynomial only; leave it out"},
    {SMALL, "schedule.anneal=linear", EINVAL,
     "override 'schedule.anneal=linear': 'schedule.anneal' linear is for one_cycle only; leave it out"},
    {SMALL "schedule: {kind: one_cycle, warmup_kind: log}\n", NULL, EINVAL,
     "job.yaml:14:42: 'schedule.warmup_kind' log is not for one_cycle; use 'schedule.anneal'"},
    {SMALL "schedule: {kind: wsd, warmup: 50, decay: 51}\n", NULL, EINVAL,
     "job.yaml:14:42: 'schedule.decay' 51 must fit after 'schedule.warmup' 50 in 'train.steps' 100, unless 'schedule.steps' is given"},
    {SMALL, "train.sequence=33", EINVAL,
     "override 'train.sequence=33': 'train.sequence' must be at most 'model.context' 32, not 33"},
    {SMALL, "train.micro_batch=7", EINVAL,
     "override 'train.micro_batch=7': 'train.global_batch' 32 must be a multiple of 'train.micro_batch' 7; 28 or 35 would do, or a micro_batch of 4 or 8"},
    {SMALL, "train.micro_batch=64", EINVAL,
     "override 'train.micro_batch=64': 'train.global_batch' 32 must be a multiple of 'train.micro_batch' 64; 64 would do, or a micro_batch of 32"},
    {SMALL, "eval.every=5", EINVAL,
     "override 'eval.every=5': 'eval.every' 5 needs 'data.valid'; name files there, or use 0"},
    {SMALL "  sequence: 16\nmodel2: {}\n", NULL, EINVAL,
     "job.yaml:15:1: unknown key 'model2', did you mean 'model'?"},
    {"name: t\ndata: {train: a, format: samples}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\nmodel: {init: {from: hf, std: 0.02}}\n", NULL, EINVAL,
     "job.yaml:4:31: 'model.init.std' and 'model.init.from' exclude each other; keep one"},
    {"name: t\ndata: {train: a, format: samples}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\nmodel: {init: {from: gone}}\n", NULL, ENOENT,
     "job.yaml:4:22: 'gone/config.json' does not exist"},
    {"name: t\ndata: {train: a, format: samples}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\nmodel: {layers: 3, init: {from: hf}}\n", NULL, EINVAL,
     "job.yaml:4:17: 'model.layers' is 3, but config.json of 'model.init.from' says 2; leave the key out"},
    {"name: t\ndata: {train: a, format: samples}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\nmodel: {arch: gpt2, init: {from: hf}}\n", NULL, EINVAL,
     "job.yaml:4:15: 'model.arch' is gpt2, but config.json of 'model.init.from' says llama; leave the key out"},
    {"name: t\ndata: {train: a, format: samples}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\nmodel: {norm_eps: 1e-5, init: {from: hf}}\n", NULL, EINVAL,
     "job.yaml:4:19: 'model.norm_eps' is 1e-05, but config.json of 'model.init.from' says 1e-06; leave the key out"},
    {"name: t\ndata: {train: a, format: text}\ntrain: {steps: 1, global_batch: 1, micro_batch: 1}\nmodel: {init: {from: hf}}\n", NULL, EINVAL,
     "job.yaml:4:1: 'model.vocab' must be at least 256 for text, not 113"},
};
/* clang-format on */

Test(wrong, each_job_ends_with_its_sentence)
{
    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        const struct wrong *w = &wrongs[i];
        struct ds_error err = {0};
        struct ds_job job;
        int rc = jobs_parse(&job, w->text, w->override, &err);

        cr_expect(rc == -w->code, "%s: rc %d", w->message, rc);
        cr_expect_str_eq(err.text, w->message);
        ds_job_release(&job);
    }
}

/* The same text `times` times between `head` and `tail`; freed by the caller. */
static char *repeat(const char *head, const char *text, size_t times, const char *tail)
{
    size_t unit = strlen(text), before = strlen(head);
    char *all = malloc(before + unit * times + strlen(tail) + 1);

    cr_assert(all != NULL);
    memcpy(all, head, before);
    for (size_t i = 0; i < times; i++)
        memcpy(all + before + i * unit, text, unit);
    memcpy(all + before + unit * times, tail, strlen(tail) + 1);
    return all;
}

Test(wrong, bounds_end_what_would_never_end, .timeout = 20)
{
    static const struct {
        const char *head, *text;
        size_t times;
        const char *message;
    } table[] = {
        {"", "[", 100000, "job.yaml:1:33: nested more than 32 levels deep"},
        {"a: ", "{a: ", 60000, "job.yaml:1:128: nested more than 32 levels deep"},
        {"", "- ", 100000, "job.yaml:1:65: nested more than 32 levels deep"},
        {"", "? ", 100000, "job.yaml:1:3: a key must be text, not a map"},
        {"a: [", "0,", 20000, "job.yaml:1:19999: more than 10000 values"},
        {"", "# comment\n", 30000, "job.yaml:1:1: larger than 262144 bytes"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        char *text = repeat(table[i].head, table[i].text, table[i].times, "");
        struct ds_error err = {0};
        struct ds_job job;

        cr_expect(jobs_parse(&job, text, NULL, &err) == -EINVAL);
        cr_expect_str_eq(err.text, table[i].message);
        ds_job_release(&job);
        free(text);
    }
}

Test(wrong, a_job_cut_anywhere_is_refused_or_whole)
{
    char text[sizeof(SMALL)];

    for (size_t len = 0; len < sizeof(SMALL) - 1; len++) {
        struct ds_error err = {0};
        struct ds_job job;
        int rc;

        memcpy(text, SMALL, len);
        text[len] = '\0';
        rc = jobs_parse(&job, text, NULL, &err);
        cr_expect(rc == 0 ? len >= sizeof(SMALL) - 2 : rc == -EINVAL && err.text[0] != '\0', "%zu",
                  len);
        ds_job_release(&job);
    }
}

Test(wrong, files)
{
    struct ds_error err = {0};
    struct ds_job job;

    ds_job_init(&job);
    cr_expect(ds_job_load(&job, "no/such/job.yaml", NULL, 0, &err) == -ENOENT);
    cr_expect(strstr(err.text, "no/such/job.yaml") != NULL, "%s", err.text);
    ds_job_release(&job);
    ds_job_init(&job);
    cr_expect(ds_job_load(&job, "/dev/zero", NULL, 0, &err) == -EINVAL);
    ds_job_release(&job);
    ds_job_init(&job);
    cr_expect(ds_job_load(&job, "/", NULL, 0, &err) < 0);
    ds_job_release(&job);
}

Test(wrong, too_many_overrides)
{
    static const char *words[DS_MAX_OVERRIDES + 1];
    struct ds_error err = {0};
    struct ds_job job;

    for (size_t i = 0; i <= DS_MAX_OVERRIDES; i++)
        words[i] = "seed=1";
    ds_job_init(&job);
    cr_expect(ds_job_parse(&job, "j", SMALL, strlen(SMALL), words, DS_MAX_OVERRIDES + 1, &err) ==
              -EINVAL);
    cr_expect_str_eq(err.text, "257 overrides are too many; at most 256 are allowed");
    ds_job_release(&job);
}
