/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_refused.c - no operation works on arguments of which one is missing, empty, larger than memory
 * or of a type that it does not compute with.
 *
 * A row is an operation with good arguments and the members that are spoilt one at a time.
 */
#include "tests/kernels/harness.h"

enum { MOST = 10 };

static float f[4096];
static _Alignas(DS_FP8_UNIT) uint8_t codes[DS_FP8_UNIT * DS_FP8_UNIT];
static int32_t ids[64];
static uint32_t pairs[4][64], two_each[] = {0, 1, 2};
static double sums[2];
static uint64_t counted;
static struct ds_part parts[4];
static struct ds_entry entries[4];
static struct ds_verdict verdicts[2];
static uint32_t largest;
static struct ds_xent_row rows_of_parts[2];

struct spoilt {
    enum { END, EMPTY, MANY, HUGE, NONE, MISSING, TYPE, NOT_POSITIVE, NOT_POSITIVE_F, SAME } how;
    size_t at; /* of the member */
};

#define X(id, fn)                                                                                  \
    static inline int call_##fn(const void *args, struct ds_stream *stream, struct ds_error *err)  \
    {                                                                                              \
        return ds_##fn(args, stream, err);                                                         \
    }
DS_OPS(X)
#undef X

struct row {
    const char *name;
    int (*call)(const void *args, struct ds_stream *stream, struct ds_error *err);
    const void *good;
    size_t bytes;
    struct spoilt spoilt[MOST + 1];
};

/* clang-format off */
#define ROW(fn, ...) #fn, call_##fn, &(const struct ds_##fn##_args){__VA_ARGS__}, \
    sizeof(struct ds_##fn##_args)
#define AT(fn, how, member) {how, offsetof(struct ds_##fn##_args, member)}

static const struct row rows[] = {
    {ROW(matmul, .m = 2, .n = 3, .k = 4, .a = f, .b = f, .d = f + 100, .lda = 4, .ldb = 3, .ldd = 3),
     {AT(matmul, EMPTY, m), AT(matmul, EMPTY, n), AT(matmul, EMPTY, k), AT(matmul, MISSING, a),
      AT(matmul, MISSING, b), AT(matmul, MISSING, d), AT(matmul, HUGE, lda), AT(matmul, HUGE, ldb),
      AT(matmul, TYPE, in_type), AT(matmul, TYPE, out_type)}},
    {ROW(bias_bwd, .rows = 2, .n = 3, .dy = f, .dbias = f + 100),
     {AT(bias_bwd, EMPTY, rows), AT(bias_bwd, EMPTY, n), AT(bias_bwd, HUGE, rows),
      AT(bias_bwd, TYPE, act), AT(bias_bwd, MISSING, dy), AT(bias_bwd, MISSING, dbias)}},
    {ROW(embed_fwd, .batch = 1, .seq = 2, .channels = 4, .vocab = 5, .ids = ids, .ids_ld = 2, .wte = f,
         .out = f + 100),
     {AT(embed_fwd, EMPTY, batch), AT(embed_fwd, EMPTY, seq), AT(embed_fwd, EMPTY, channels),
      AT(embed_fwd, EMPTY, vocab), AT(embed_fwd, HUGE, first_id), AT(embed_fwd, TYPE, act), AT(embed_fwd, TYPE, param),
      AT(embed_fwd, MISSING, ids), AT(embed_fwd, MISSING, wte), AT(embed_fwd, MISSING, out)}},
    {ROW(embed_bwd, .batch = 1, .seq = 2, .channels = 4, .vocab = 5, .positions = 2, .ids = ids,
         .ids_ld = 2, .dout = f, .dwte = f + 100, .dwpe = f + 200),
     {AT(embed_bwd, EMPTY, batch), AT(embed_bwd, EMPTY, seq), AT(embed_bwd, EMPTY, channels),
      AT(embed_bwd, EMPTY, vocab), AT(embed_bwd, EMPTY, ids_ld), AT(embed_bwd, EMPTY, positions),
      AT(embed_bwd, TYPE, act), AT(embed_bwd, MISSING, ids), AT(embed_bwd, MISSING, dout),
      AT(embed_bwd, MISSING, dwte)}},
    {ROW(norm_fwd, .rows = 1, .channels = 4, .kind = DS_NORM_RMS, .eps = 1e-5f, .x = f, .weight = f,
         .y = f + 100, .rstd = f + 200),
     {AT(norm_fwd, EMPTY, rows), AT(norm_fwd, EMPTY, channels), AT(norm_fwd, HUGE, rows),
      AT(norm_fwd, TYPE, act), AT(norm_fwd, TYPE, param), AT(norm_fwd, MISSING, x),
      AT(norm_fwd, MISSING, weight), AT(norm_fwd, MISSING, y), AT(norm_fwd, MISSING, rstd)}},
    {ROW(norm_bwd, .rows = 1, .channels = 4, .kind = DS_NORM_RMS, .dy = f, .x = f, .weight = f,
         .rstd = f, .dx = f + 100, .dweight = f + 200),
     {AT(norm_bwd, EMPTY, rows), AT(norm_bwd, EMPTY, channels), AT(norm_bwd, TYPE, act),
      AT(norm_bwd, TYPE, param), AT(norm_bwd, MISSING, dy), AT(norm_bwd, MISSING, x),
      AT(norm_bwd, MISSING, weight), AT(norm_bwd, MISSING, rstd), AT(norm_bwd, MISSING, dx),
      AT(norm_bwd, MISSING, dweight)}},
    {ROW(norm_bwd, .rows = 1, .channels = 4, .kind = DS_NORM_LAYER, .dy = f, .x = f, .weight = f,
         .mean = f, .rstd = f, .dx = f + 100, .dweight = f + 200, .dbias = f + 300),
     {AT(norm_bwd, HUGE, rows), AT(norm_bwd, MISSING, mean), AT(norm_bwd, MISSING, dbias)}},
    {ROW(head_norm_fwd, .rows = 1, .heads = 2, .kv_heads = 1, .head_size = 4, .eps = 1e-6f, .x = f, .q_weight = f,
         .k_weight = f, .y = f + 100, .rstd = f + 200),
     {AT(head_norm_fwd, EMPTY, rows), AT(head_norm_fwd, EMPTY, heads), AT(head_norm_fwd, EMPTY, kv_heads),
      AT(head_norm_fwd, EMPTY, head_size), AT(head_norm_fwd, HUGE, rows), AT(head_norm_fwd, HUGE, heads),
      AT(head_norm_fwd, HUGE, kv_heads), AT(head_norm_fwd, HUGE, head_size), AT(head_norm_fwd, TYPE, act),
      AT(head_norm_fwd, TYPE, param)}},
    {ROW(head_norm_fwd, .rows = 1, .heads = 2, .kv_heads = 1, .head_size = 4, .x = f, .q_weight = f, .k_weight = f,
         .y = f + 100, .rstd = f + 200),
     {AT(head_norm_fwd, MISSING, x), AT(head_norm_fwd, MISSING, q_weight), AT(head_norm_fwd, MISSING, k_weight),
      AT(head_norm_fwd, MISSING, y), AT(head_norm_fwd, MISSING, rstd), AT(head_norm_fwd, SAME, y)}},
    {ROW(head_norm_bwd, .rows = 1, .heads = 2, .kv_heads = 1, .head_size = 4, .dy = f, .x = f + 300, .q_weight = f,
         .k_weight = f, .rstd = f, .dx = f + 100, .dq_weight = f + 200, .dk_weight = f + 210),
     {AT(head_norm_bwd, EMPTY, rows), AT(head_norm_bwd, EMPTY, heads), AT(head_norm_bwd, EMPTY, kv_heads),
      AT(head_norm_bwd, EMPTY, head_size), AT(head_norm_bwd, HUGE, rows), AT(head_norm_bwd, HUGE, kv_heads),
      AT(head_norm_bwd, TYPE, act), AT(head_norm_bwd, TYPE, param)}},
    {ROW(head_norm_bwd, .rows = 1, .heads = 2, .kv_heads = 1, .head_size = 4, .dy = f + 300, .x = f, .q_weight = f,
         .k_weight = f, .rstd = f, .dx = f + 300, .dq_weight = f + 200, .dk_weight = f + 210),
     {AT(head_norm_bwd, MISSING, dy), AT(head_norm_bwd, MISSING, x), AT(head_norm_bwd, MISSING, q_weight),
      AT(head_norm_bwd, MISSING, k_weight), AT(head_norm_bwd, MISSING, rstd), AT(head_norm_bwd, MISSING, dx),
      AT(head_norm_bwd, MISSING, dq_weight), AT(head_norm_bwd, MISSING, dk_weight), AT(head_norm_bwd, SAME, dx)}},
    {ROW(rope, .batch = 1, .seq = 1, .heads = 1, .head_size = 4, .ld = 4, .theta = 1e4f, .x = f),
     {AT(rope, EMPTY, batch), AT(rope, EMPTY, seq), AT(rope, EMPTY, heads), AT(rope, EMPTY, head_size),
      AT(rope, EMPTY, ld), AT(rope, TYPE, act), AT(rope, NOT_POSITIVE_F, theta), AT(rope, MISSING, x)}},
    {ROW(attention_fwd, .batch = 1, .seq = 2, .heads = 2, .kv_heads = 1, .head_size = 4, .scale = 0.5f,
         .qkv = f, .out = f + 100, .lse = f + 200),
     {AT(attention_fwd, EMPTY, batch), AT(attention_fwd, EMPTY, seq), AT(attention_fwd, EMPTY, heads),
      AT(attention_fwd, EMPTY, kv_heads), AT(attention_fwd, HUGE, head_size),
      AT(attention_fwd, MISSING, qkv), AT(attention_fwd, MISSING, out), AT(attention_fwd, TYPE, act)}},
    {ROW(attention_bwd, .batch = 1, .seq = 2, .heads = 2, .kv_heads = 1, .head_size = 4, .scale = 0.5f,
         .qkv = f, .out = f, .dout = f, .lse = f, .dqkv = f + 100),
     {AT(attention_bwd, MISSING, qkv), AT(attention_bwd, MISSING, out), AT(attention_bwd, MISSING, dout),
      AT(attention_bwd, MISSING, lse), AT(attention_bwd, MISSING, dqkv), AT(attention_bwd, TYPE, act)}},
    {ROW(attention_cached, .seq = 2, .first = 1, .room = DS_CACHE_TILE, .heads = 2, .kv_heads = 1,
         .head_size = 4, .scale = 0.5f, .qkv = f, .keys = f + 100, .values = f + 1000, .out = f + 2000),
     {AT(attention_cached, EMPTY, seq), AT(attention_cached, EMPTY, room), AT(attention_cached, HUGE, first),
      AT(attention_cached, EMPTY, kv_heads), AT(attention_cached, HUGE, head_size),
      AT(attention_cached, TYPE, act), AT(attention_cached, MISSING, qkv), AT(attention_cached, MISSING, keys),
      AT(attention_cached, MISSING, values), AT(attention_cached, MISSING, out)}},
    {ROW(gelu_fwd, .n = 3, .x = f, .y = f + 100),
     {AT(gelu_fwd, TYPE, act), AT(gelu_fwd, MISSING, x), AT(gelu_fwd, MISSING, y)}},
    {ROW(gelu_bwd, .n = 3, .x = f, .dy = f, .dx = f + 100),
     {AT(gelu_bwd, TYPE, act), AT(gelu_bwd, MISSING, x), AT(gelu_bwd, MISSING, dy),
      AT(gelu_bwd, MISSING, dx)}},
    {ROW(swiglu_fwd, .rows = 1, .ffn = 3, .x = f, .y = f + 100),
     {AT(swiglu_fwd, EMPTY, rows), AT(swiglu_fwd, EMPTY, ffn), AT(swiglu_fwd, HUGE, rows),
      AT(swiglu_fwd, TYPE, act), AT(swiglu_fwd, MISSING, x), AT(swiglu_fwd, MISSING, y)}},
    {ROW(swiglu_bwd, .rows = 1, .ffn = 3, .x = f, .dy = f, .dx = f + 100),
     {AT(swiglu_bwd, EMPTY, rows), AT(swiglu_bwd, EMPTY, ffn), AT(swiglu_bwd, HUGE, rows),
      AT(swiglu_bwd, TYPE, act), AT(swiglu_bwd, MISSING, x), AT(swiglu_bwd, MISSING, dy),
      AT(swiglu_bwd, MISSING, dx)}},
    {ROW(swiglu_rows_fwd, .rows = 1, .pairs = 2, .ffn = 3, .source = pairs[1], .count = two_each + 1, .x = f,
         .weight = f, .y = f + 100),
     {AT(swiglu_rows_fwd, EMPTY, rows), AT(swiglu_rows_fwd, EMPTY, ffn), AT(swiglu_rows_fwd, HUGE, rows),
      AT(swiglu_rows_fwd, TYPE, act), AT(swiglu_rows_fwd, MISSING, source), AT(swiglu_rows_fwd, MISSING, count),
      AT(swiglu_rows_fwd, MISSING, x), AT(swiglu_rows_fwd, MISSING, weight), AT(swiglu_rows_fwd, MISSING, y)}},
    {ROW(swiglu_rows_fwd, .rows = 1, .pairs = 2, .ffn = 3, .source = pairs[1], .count = two_each + 1, .x = f,
         .weight = f, .y = f + 100),
     {AT(swiglu_rows_fwd, EMPTY, pairs), AT(swiglu_rows_fwd, MANY, pairs), AT(swiglu_rows_fwd, MANY, rows)}},
    {ROW(swiglu_rows_bwd, .rows = 1, .pairs = 2, .ffn = 3, .source = pairs[1], .count = two_each + 1, .x = f, .dy = f,
         .weight = f, .dx = f + 100, .dweight = f + 200),
     {AT(swiglu_rows_bwd, EMPTY, rows), AT(swiglu_rows_bwd, EMPTY, ffn), AT(swiglu_rows_bwd, HUGE, ffn),
      AT(swiglu_rows_bwd, TYPE, act), AT(swiglu_rows_bwd, MISSING, x), AT(swiglu_rows_bwd, MISSING, dy),
      AT(swiglu_rows_bwd, MISSING, weight), AT(swiglu_rows_bwd, MISSING, dx), AT(swiglu_rows_bwd, MISSING, dweight)}},
    {ROW(swiglu_rows_bwd, .rows = 1, .pairs = 2, .ffn = 3, .source = pairs[1], .count = two_each + 1, .x = f, .dy = f,
         .weight = f, .dx = f + 100, .dweight = f + 200),
     {AT(swiglu_rows_bwd, EMPTY, pairs), AT(swiglu_rows_bwd, HUGE, pairs), AT(swiglu_rows_bwd, MISSING, source),
      AT(swiglu_rows_bwd, MISSING, count)}},
    {ROW(route, .batch = 1, .seq = 2, .experts = 3, .each = 2, .logits = f, .probs = f + 100, .chosen = pairs[0],
         .weight = f + 200, .load = f + 300),
     {AT(route, MISSING, logits), AT(route, MISSING, probs), AT(route, MISSING, chosen), AT(route, MISSING, weight),
      AT(route, MISSING, load)}},
    {ROW(route, .batch = 1, .seq = 2, .experts = 3, .each = 2, .logits = f, .probs = f, .chosen = pairs[0],
         .weight = f + 200, .load = f + 300),
     {AT(route, EMPTY, batch), AT(route, EMPTY, seq), AT(route, EMPTY, experts), AT(route, EMPTY, each),
      AT(route, HUGE, batch), AT(route, HUGE, seq), AT(route, HUGE, experts), AT(route, HUGE, each),
      AT(route, MANY, seq), AT(route, MANY, experts)}},
    {ROW(route_bwd, .batch = 1, .seq = 2, .sequence = 2, .experts = 3, .each = 2, .probs = f, .chosen = pairs[0],
         .weight = f, .dweight = f, .load = f, .dlogits = f + 100),
     {AT(route_bwd, TYPE, act), AT(route_bwd, MISSING, probs), AT(route_bwd, MISSING, chosen),
      AT(route_bwd, MISSING, weight), AT(route_bwd, MISSING, dweight), AT(route_bwd, MISSING, load),
      AT(route_bwd, MISSING, dlogits), AT(route_bwd, EMPTY, sequence), AT(route_bwd, HUGE, experts)}},
    {ROW(sort_pairs, .rows = 2, .each = 2, .experts = 3, .first = 1, .held = 2, .sorted = 4, .chosen = pairs[0],
         .source = pairs[1], .place = pairs[2], .offset = pairs[3]),
     {AT(sort_pairs, EMPTY, rows), AT(sort_pairs, EMPTY, each), AT(sort_pairs, EMPTY, experts),
      AT(sort_pairs, EMPTY, held), AT(sort_pairs, EMPTY, sorted), AT(sort_pairs, MISSING, chosen),
      AT(sort_pairs, MISSING, source), AT(sort_pairs, MISSING, place), AT(sort_pairs, MISSING, offset)}},
    {ROW(sort_pairs, .rows = 2, .each = 2, .experts = 3, .first = 1, .held = 2, .sorted = 4, .chosen = pairs[0],
         .source = pairs[1], .place = pairs[2], .offset = pairs[3]),
     {AT(sort_pairs, HUGE, rows), AT(sort_pairs, MANY, rows), AT(sort_pairs, HUGE, each), AT(sort_pairs, MANY, each),
      AT(sort_pairs, HUGE, experts), AT(sort_pairs, HUGE, first), AT(sort_pairs, HUGE, held),
      AT(sort_pairs, HUGE, sorted), AT(sort_pairs, MANY, sorted)}},
    {ROW(rows_take, .rows = 2, .each = 2, .channels = 3, .sorted = 4, .source = pairs[1], .count = two_each + 2,
         .x = f, .y = f + 100),
     {AT(rows_take, EMPTY, rows), AT(rows_take, EMPTY, each), AT(rows_take, EMPTY, channels),
      AT(rows_take, HUGE, rows), AT(rows_take, HUGE, each), AT(rows_take, HUGE, channels),
      AT(rows_take, TYPE, act), AT(rows_take, MISSING, source), AT(rows_take, MISSING, x), AT(rows_take, MISSING, y)}},
    {ROW(rows_take, .rows = 2, .each = 2, .channels = 3, .sorted = 4, .source = pairs[1], .count = two_each + 2,
         .x = f, .y = f + 100),
     {AT(rows_take, EMPTY, sorted), AT(rows_take, HUGE, sorted), AT(rows_take, MANY, sorted),
      AT(rows_take, MISSING, count)}},
    {ROW(rows_sum, .rows = 2, .each = 2, .channels = 3, .sorted = 4, .place = pairs[2], .x = f, .y = f + 100),
     {AT(rows_sum, EMPTY, rows), AT(rows_sum, EMPTY, each), AT(rows_sum, EMPTY, channels), AT(rows_sum, EMPTY, sorted),
      AT(rows_sum, MANY, rows), AT(rows_sum, HUGE, each), AT(rows_sum, HUGE, channels), AT(rows_sum, MANY, sorted),
      AT(rows_sum, HUGE, sorted)}},
    {ROW(rows_sum, .rows = 2, .each = 17, .channels = 3, .x = f, .y = f + 200), /* parts of ranks */
     {AT(rows_sum, TYPE, act), AT(rows_sum, SAME, place), AT(rows_sum, MISSING, x), AT(rows_sum, MISSING, y),
      AT(rows_sum, EMPTY, rows), AT(rows_sum, EMPTY, each), AT(rows_sum, MANY, each)}},
    {ROW(experts_matmul, .rows = 2, .experts = 2, .in = 3, .out = 4, .offset = two_each, .x = f, .weight = f + 100,
         .to = f + 200),
     {AT(experts_matmul, EMPTY, rows), AT(experts_matmul, EMPTY, experts), AT(experts_matmul, EMPTY, in),
      AT(experts_matmul, EMPTY, out), AT(experts_matmul, MANY, rows), AT(experts_matmul, TYPE, act),
      AT(experts_matmul, MISSING, offset), AT(experts_matmul, MISSING, x), AT(experts_matmul, MISSING, weight),
      AT(experts_matmul, MISSING, to)}},
    {ROW(experts_matmul, .rows = 2, .experts = 2, .in = 3, .out = 4, .product = DS_EXPERTS_BWD_X,
         .offset = two_each, .y = f, .weight = f + 100, .to = f + 200),
     {AT(experts_matmul, HUGE, rows), AT(experts_matmul, HUGE, in), AT(experts_matmul, HUGE, out),
      AT(experts_matmul, MANY, experts), AT(experts_matmul, TYPE, product), AT(experts_matmul, MISSING, y),
      AT(experts_matmul, MISSING, weight)}},
    {ROW(experts_matmul, .rows = 2, .experts = 2, .in = 3, .out = 4, .product = DS_EXPERTS_BWD_W,
         .offset = two_each, .x = f, .y = f, .to = f + 200, .accumulate = true),
     {AT(experts_matmul, MISSING, x), AT(experts_matmul, MISSING, y), AT(experts_matmul, NONE, product)}},
    {ROW(dropout, .n = 3, .rate = 0.5, .x = f, .y = f + 100), {AT(dropout, MISSING, y)}},
    {ROW(xent, .rows = 1, .vocab = 4, .ld = 4, .logits = f, .targets = ids, .losses = f + 100,
         .dlogits = f + 200, .dld = 4),
     {AT(xent, EMPTY, rows), AT(xent, EMPTY, vocab), AT(xent, HUGE, ld), AT(xent, TYPE, act),
      AT(xent, TYPE, logits_type), AT(xent, MISSING, logits), AT(xent, MISSING, targets), AT(xent, MISSING, losses)}},
    {ROW(xent, .rows = 1, .vocab = 4, .ld = 4, .logits = f, .targets = ids, .losses = f + 100,
         .dlogits = f, .dld = 4),
     {AT(xent, HUGE, dld)}}, /* in place, of another layout */
    {ROW(xent, .rows = 1, .vocab = 4, .ld = 4, .logits = f, .targets = ids, .losses = f + 100,
         .dlogits = f + 200, .dld = 4, .parts = rows_of_parts, .ranks = 2, .each = 4, .columns = 4),
     {AT(xent, MISSING, parts), AT(xent, EMPTY, ranks), AT(xent, HUGE, ranks), AT(xent, EMPTY, each),
      AT(xent, HUGE, each), AT(xent, HUGE, first_id), AT(xent, EMPTY, columns), AT(xent, HUGE, columns)}},
    {ROW(xent_part, .rows = 1, .vocab = 4, .ld = 4, .logits = f, .targets = ids, .out = rows_of_parts),
     {AT(xent_part, EMPTY, rows), AT(xent_part, EMPTY, vocab), AT(xent_part, EMPTY, ld), AT(xent_part, HUGE, ld),
      AT(xent_part, TYPE, logits_type), AT(xent_part, MISSING, logits), AT(xent_part, MISSING, targets),
      AT(xent_part, HUGE, first_id), AT(xent_part, MISSING, out)}},
    {ROW(sum, .n = 3, .x = f, .sum = sums), {AT(sum, MISSING, x), AT(sum, MISSING, sum)}},
    {ROW(add, .n = 3, .x = f, .y = f + 100), {AT(add, MISSING, x), AT(add, MISSING, y)}},
    {ROW(sumsq, .n = 3, .x = f, .sum = sums, .nonfinite = &counted),
     {AT(sumsq, MISSING, x), AT(sumsq, MISSING, sum), AT(sumsq, MISSING, nonfinite)}},
    {ROW(load_peak, .batch = 2, .experts = 3, .load = f, .sum = sums),
     {AT(load_peak, MISSING, load), AT(load_peak, MISSING, sum), AT(load_peak, EMPTY, batch), AT(load_peak, HUGE, batch),
      AT(load_peak, EMPTY, experts), AT(load_peak, HUGE, experts)}},
    {ROW(tally, .parts = 3, .loss = sums, .peaks = sums, .part = parts, .entry = entries),
     {AT(tally, HUGE, parts), AT(tally, MISSING, loss), AT(tally, MISSING, peaks), AT(tally, MISSING, part), AT(tally, MISSING, entry)}},
    {ROW(verdict, .ranks = 3, .entry = entries, .before = verdicts, .size = {1.0, 1.0}, .verdict = verdicts + 1),
     {AT(verdict, EMPTY, ranks), AT(verdict, HUGE, ranks), AT(verdict, MISSING, entry),
      AT(verdict, MISSING, before), AT(verdict, MISSING, verdict), AT(verdict, NOT_POSITIVE, size.tokens)}},
    {ROW(rank_sum, .ranks = 2, .n = 1, .x = sums),
     {AT(rank_sum, EMPTY, ranks), AT(rank_sum, HUGE, ranks), AT(rank_sum, HUGE, n), AT(rank_sum, MISSING, x)}},
    {ROW(adamw, .n = 3, .p = f, .m = f + 10, .v = f + 20, .grad = f + 30, .bias1 = 0.1, .bias2 = 0.1,
         .verdict = verdicts, .behind_bias1 = 0.1, .behind_bias2 = 0.1),
     {AT(adamw, NOT_POSITIVE, behind_bias1), AT(adamw, NOT_POSITIVE, behind_bias2)}},
    {ROW(adamw, .n = 3, .p = f, .m = f + 10, .v = f + 20, .grad = f + 30, .bias1 = 0.1, .bias2 = 0.1),
     {AT(adamw, MISSING, p), AT(adamw, MISSING, m), AT(adamw, MISSING, v), AT(adamw, MISSING, grad),
      AT(adamw, NOT_POSITIVE, bias1), AT(adamw, NOT_POSITIVE, bias2), AT(adamw, TYPE, grad_type)}},
    {ROW(sgd, .n = 3, .p = f, .m = f + 10, .grad = f + 30, .nesterov = true),
     {AT(sgd, MISSING, p), AT(sgd, MISSING, m), AT(sgd, MISSING, grad), AT(sgd, TYPE, grad_type)}},
    {ROW(adagrad, .n = 3, .p = f, .v = f + 20, .grad = f + 30),
     {AT(adagrad, MISSING, p), AT(adagrad, MISSING, v), AT(adagrad, MISSING, grad),
      AT(adagrad, TYPE, grad_type)}},
    {ROW(muon_moments, .n = 3, .m = f + 10, .u = f + 20, .grad = f + 30),
     {AT(muon_moments, MISSING, m), AT(muon_moments, MISSING, u), AT(muon_moments, MISSING, grad),
      AT(muon_moments, TYPE, grad_type)}},
    {ROW(muon, .n = 3, .p = f, .x = f + 10, .p_low = f + 20, .low_type = DS_BF16),
     {AT(muon, MISSING, p), AT(muon, MISSING, x), AT(muon, TYPE, low_type)}},
    {ROW(affine, .rows = 1, .cols = 2, .x = f, .y = f + 10),
     {AT(affine, MISSING, x), AT(affine, MISSING, y)}},
    {ROW(lion, .n = 3, .p = f, .m = f + 10, .grad = f + 30, .p_low = f + 40, .low_type = DS_F16),
     {AT(lion, MISSING, grad), AT(lion, TYPE, low_type)}},
    {ROW(lamb_moments, .n = 3, .p = f, .m = f + 10, .v = f + 20, .grad = f + 30, .eps = 1e-6,
         .bias1 = 0.1, .bias2 = 0.1, .p_sumsq = &sums[0], .u_sumsq = &sums[1]),
     {AT(lamb_moments, MISSING, p), AT(lamb_moments, MISSING, m), AT(lamb_moments, MISSING, v),
      AT(lamb_moments, MISSING, grad), AT(lamb_moments, MISSING, p_sumsq),
      AT(lamb_moments, NOT_POSITIVE, bias1), AT(lamb_moments, NOT_POSITIVE, bias2),
      AT(lamb_moments, TYPE, grad_type)}},
    {ROW(lamb, .n = 3, .p = f, .m = f + 10, .v = f + 20, .eps = 1e-6, .bias1 = 0.1, .bias2 = 0.1,
         .p_sumsq = &sums[0], .u_sumsq = &sums[1], .verdict = verdicts, .behind_bias1 = 0.1,
         .behind_bias2 = 0.1),
     {AT(lamb, NOT_POSITIVE, bias2), AT(lamb, NOT_POSITIVE, eps), AT(lamb, NOT_POSITIVE, behind_bias1),
      AT(lamb, MISSING, p), AT(lamb, MISSING, p_sumsq), AT(lamb, MISSING, u_sumsq)}},
    {ROW(cast, .n = 3, .x = f, .y = f + 100),
     {AT(cast, TYPE, from), AT(cast, TYPE, to), AT(cast, MISSING, x), AT(cast, MISSING, y)}},
    {ROW(reorder, .outer = 2, .inner = 3, .run = 4, .from = f, .to = f + 100),
     {AT(reorder, HUGE, outer), AT(reorder, HUGE, inner), AT(reorder, HUGE, run),
      AT(reorder, MISSING, from), AT(reorder, MISSING, to)}},
    {ROW(largest, .n = 3, .x = f, .largest = &largest),
     {AT(largest, TYPE, act), AT(largest, MISSING, x), AT(largest, MISSING, largest)}},
    {ROW(fp8_cast, .rows = DS_FP8_UNIT, .cols = DS_FP8_UNIT, .x = f, .codes = codes, .largest = &largest,
         .scale = f + 300),
     {AT(fp8_cast, EMPTY, rows), AT(fp8_cast, EMPTY, cols), AT(fp8_cast, HUGE, rows),
      AT(fp8_cast, TYPE, act), AT(fp8_cast, TYPE, type), AT(fp8_cast, MISSING, x),
      AT(fp8_cast, MISSING, codes), AT(fp8_cast, MISSING, largest), AT(fp8_cast, MISSING, scale)}},
};
/* clang-format on */

static void spoil(char *args, const struct spoilt *spoilt)
{
    static const size_t empty = 0, many = (size_t)1 << 33, huge = SIZE_MAX / 2;
    static const enum ds_dtype none, type = DS_I64;
    static const double zero = 0.0;
    static const float zero_f = 0.0f;
    static const void *const missing, *const same = f;
    const struct {
        const void *value;
        size_t bytes;
    } with[] = {
        [EMPTY] = {&empty, sizeof(empty)},       [MANY] = {&many, sizeof(many)},
        [NONE] = {&none, sizeof(none)},          [HUGE] = {&huge, sizeof(huge)},
        [MISSING] = {&missing, sizeof(missing)}, [TYPE] = {&type, sizeof(type)},
        [NOT_POSITIVE] = {&zero, sizeof(zero)},  [NOT_POSITIVE_F] = {&zero_f, sizeof(zero_f)},
        [SAME] = {&same, sizeof(same)}};

    memcpy(args + spoilt->at, with[spoilt->how].value, with[spoilt->how].bytes);
}

Test(refused, one_argument_that_is_wrong)
{
    struct ds_device *device = open_cpu(NULL, 1, 2 << 20);
    struct ds_stream *stream = ds_device_stream(device);

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct row *row = &rows[i];
        struct ds_error err = {0};

        cr_assert(row->call(row->good, stream, &err) == 0, "row %zu, %s: %s", i, row->name,
                  err.text);
        for (const struct spoilt *spoilt = row->spoilt; spoilt->how != END; spoilt++) {
            _Alignas(16) char args[sizeof(struct ds_attention_bwd_args) + 256];

            cr_assert(row->bytes <= sizeof(args));
            memcpy(args, row->good, row->bytes);
            spoil(args, spoilt);
            ds_error_clear(&err);
            cr_assert(row->call(args, stream, &err) == -EINVAL, "row %zu, %s: spoilt member at %zu",
                      i, row->name, spoilt->at);
            cr_assert(strstr(err.text, row->name) != NULL, "%s", err.text);
        }
    }
    ds_device_close(device);
}
