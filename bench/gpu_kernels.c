/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gpu_kernels.c - how fast each kernel runs on a GPU, at the sizes of a step, through the plug-in.
 *
 * Prints one JSON line a kernel: what, microseconds of each of SAMPLES samples, and the bytes or
 * FLOPs that it cannot do without.  A sample is many launches and one wait, over operands that
 * together are larger than the second cache.  bench/gpu.py calls it.
 *
 *     gpu_kernels PLUGIN products|fp8|memory|attention|experts [SHRINK]
 *
 * Everything is SHRINK times smaller, for a test of the program itself.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/gpu_meter.h"
#include "runtime/plugin.h"

/* --- kernels that move memory ------------------------------------------------------------------*/

struct copy {
    void *to, *from;
    size_t bytes;
};

static void run_copy(void *arg)
{
    struct copy *c = arg;

    must(ds_stream_copy(stream, DS_COPY_ASIDE, c->to, c->from, c->bytes, &err));
}

static void measure_copy(const char *what, size_t bytes)
{
    struct copy c = {.bytes = bytes};

    taken = 0;
    c.from = take_numbers(DS_F32, c.bytes / 4);
    c.to = take(c.bytes);
    measure(what, "bytes", 2.0 * (double)c.bytes, run_copy, &c);
}

static void measure_norms(enum ds_norm_kind kind, size_t rows, size_t n)
{
    struct ds_norm_fwd_args f = {.rows = rows, .channels = n, .kind = kind, .eps = 1e-5f};
    struct ds_norm_bwd_args b = {.rows = rows, .channels = n, .kind = kind};
    bool layer = kind == DS_NORM_LAYER;

    taken = 0;
    f.act = f.param = b.act = b.param = DS_BF16;
    f.x = b.x = take_numbers(DS_BF16, rows * n);
    b.dy = take_numbers(DS_BF16, rows * n);
    b.dres = take_numbers(DS_BF16, rows * n);
    f.y = take(rows * n * 2);
    b.dx = take(rows * n * 2);
    f.weight = b.weight = take_numbers(DS_BF16, n);
    f.bias = layer ? take_numbers(DS_BF16, n) : NULL;
    b.mean = f.mean = layer ? take(rows * 4) : NULL;
    b.rstd = f.rstd = take(rows * 4);
    b.dweight = take(n * 4);
    b.dbias = layer ? take(n * 4) : NULL;
    moves(layer ? "layernorm" : "rmsnorm", DS_OP_NORM_FWD, run_norm_fwd, &f);
    moves(layer ? "layernorm backward" : "rmsnorm backward", DS_OP_NORM_BWD, run_norm_bwd, &b);
}

static void measure_head_norms(void)
{
    const size_t rows = many(8192), n = 128, all = rows * 48 * n;
    struct ds_head_norm_fwd_args f = {.rows = rows, .heads = 32, .kv_heads = 8, .head_size = n};
    struct ds_head_norm_bwd_args b = {.rows = rows, .heads = 32, .kv_heads = 8, .head_size = n};

    taken = 0;
    f.act = f.param = b.act = b.param = DS_BF16;
    f.x = b.x = take_numbers(DS_BF16, all);
    b.dy = take_numbers(DS_BF16, all);
    f.y = b.dx = take(all * 2);
    f.q_weight = b.q_weight = f.k_weight = b.k_weight = take_numbers(DS_BF16, n);
    b.rstd = f.rstd = take(rows * 40 * 4);
    b.dq_weight = take(n * 4);
    b.dk_weight = take(n * 4);
    moves("norm of heads", DS_OP_HEAD_NORM_FWD, run_head_norm_fwd, &f);
    moves("norm of heads backward", DS_OP_HEAD_NORM_BWD, run_head_norm_bwd, &b);
}

static void measure_pointwise(void)
{
    const size_t rows = many(65536), wide = 3072, seq = many(4096), tokens = 2 * seq;
    const size_t ffn = 8192, heads = 40, size = 64;
    struct ds_gelu_fwd_args gf = {.n = rows * wide, .act = DS_BF16};
    struct ds_gelu_bwd_args gb = {.n = rows * wide, .act = DS_BF16};
    struct ds_bias_bwd_args bias = {.rows = rows, .n = wide, .act = DS_BF16};
    struct ds_cast_args cast = {.n = rows * wide, .from = DS_F32, .to = DS_BF16};
    struct ds_swiglu_fwd_args sf = {.rows = tokens, .ffn = ffn, .act = DS_BF16};
    struct ds_swiglu_bwd_args sb = {.rows = tokens, .ffn = ffn, .act = DS_BF16};
    struct ds_rope_args rope = {.batch = 2, .seq = seq, .heads = heads, .head_size = size};

    taken = 0;
    gf.x = gb.x = sf.x = sb.x = take_numbers(DS_BF16, rows * wide);
    gb.dy = bias.dy = sb.dy = take_numbers(DS_BF16, rows * wide);
    cast.x = take_numbers(DS_F32, rows * wide);
    gf.y = gb.dx = cast.y = sf.y = sb.dx = take(rows * wide * 2);
    bias.dbias = take(wide * 4);
    rope.act = DS_BF16;
    rope.ld = (heads + 8) * size;
    rope.theta = 500000.0f;
    rope.x = take_numbers(DS_BF16, tokens * rope.ld);
    moves("gelu", DS_OP_GELU_FWD, run_gelu_fwd, &gf);
    moves("gelu backward", DS_OP_GELU_BWD, run_gelu_bwd, &gb);
    moves("bias backward", DS_OP_BIAS_BWD, run_bias_bwd, &bias);
    moves("cast fp32 to bf16", DS_OP_CAST, run_cast, &cast);
    moves("swiglu", DS_OP_SWIGLU_FWD, run_swiglu_fwd, &sf);
    moves("swiglu backward", DS_OP_SWIGLU_BWD, run_swiglu_bwd, &sb);
    moves("rope", DS_OP_ROPE, run_rope, &rope);
}

static void measure_ends(void)
{
    const size_t batch = 64, seq = many(1024), n = 768, vocab = many(50304), rows = many(4096);
    struct ds_embed_fwd_args f = {.batch = batch, .seq = seq, .channels = n, .vocab = vocab};
    struct ds_embed_bwd_args b = {.batch = batch, .seq = seq, .channels = n, .vocab = vocab};
    struct ds_xent_args x = {
        .rows = rows, .vocab = vocab, .act = DS_BF16, .logits_type = DS_BF16, .grad_scale = 1e-5f};

    taken = 0;
    f.act = f.param = b.act = DS_BF16;
    f.ids_ld = b.ids_ld = seq + 1;
    f.ids = b.ids = take_ids(batch * (seq + 1), vocab);
    f.wte = take_numbers(DS_BF16, vocab * n);
    f.wpe = take_numbers(DS_BF16, seq * n);
    b.dout = take_numbers(DS_BF16, batch * seq * n);
    f.out = take(batch * seq * n * 2);
    b.dwte = take(vocab * n * 4);
    b.dwpe = take(seq * n * 4);
    b.positions = seq;
    b.accumulate_wte = true; /* the head has been there */
    x.logits = take_numbers(DS_BF16, rows * vocab);
    x.ld = x.dld = vocab;
    x.targets = take_ids(rows, vocab);
    x.losses = take(rows * 4);
    x.dlogits = take(rows * vocab * 2);
    moves("embedding", DS_OP_EMBED_FWD, run_embed_fwd, &f);
    moves("embedding backward", DS_OP_EMBED_BWD, run_embed_bwd, &b);
    moves("classifier loss", DS_OP_XENT, run_xent, &x);
}

/* Columns that two ranks share: what the second one's come to, and their gradients. */
static void measure_shared_loss(void)
{
    const size_t rows = many(4096), each = many(50304 / 2);
    struct ds_xent_part_args p = {.rows = rows, .vocab = each, .logits_type = DS_BF16, .ld = each};
    struct ds_xent_args x = {.rows = rows, .vocab = each, .act = DS_BF16, .logits_type = DS_BF16};
    struct ds_xent_row *parts;

    taken = 0;
    parts = take(2 * rows * sizeof(*parts));
    p.logits = x.logits = take_numbers(DS_BF16, rows * each);
    p.targets = x.targets = take_ids(rows, 2 * each);
    p.out = parts;
    must(ds_xent_part(&p, stream, &err));
    p.first_id = x.first_id = each;
    p.out = parts + rows;
    x.parts = parts;
    x.ranks = 2;
    x.each = x.columns = x.ld = x.dld = each;
    x.losses = take(rows * 4);
    x.dlogits = take(rows * each * 2);
    x.grad_scale = 1e-5f;
    moves("shared loss: a part", DS_OP_XENT_PART, run_xent_part, &p);
    moves("shared loss: gradients", DS_OP_XENT, run_xent, &x);
}

enum { EXPERTS = 8, EACH = 2, HIDDEN = 2048, EXPERT_FFN = 4096 };

/* Of rows that are spread as by chance. */
static struct ds_route_args take_route(size_t rows)
{
    const size_t pairs = rows * EACH;
    struct ds_route_args r = {.batch = 1, .seq = rows, .experts = EXPERTS, .each = EACH};

    r.logits = take_numbers(DS_F32, rows * EXPERTS);
    r.probs = take(rows * EXPERTS * 4);
    r.chosen = take(pairs * 4);
    r.weight = take(pairs * 4);
    r.load = take(EXPERTS * 4);
    must(ds_route(&r, stream, &err));
    return r;
}

static struct ds_sort_pairs_args take_order(const struct ds_route_args *r)
{
    const size_t pairs = r->seq * EACH;
    struct ds_sort_pairs_args s = {
        .rows = r->seq, .each = EACH, .experts = EXPERTS, .held = EXPERTS, .sorted = pairs};

    s.chosen = r->chosen;
    s.source = take(pairs * 4);
    s.place = take(pairs * 4);
    s.offset = take((EXPERTS + 1) * 4);
    must(ds_sort_pairs(&s, stream, &err));
    return s;
}

static void measure_router(void)
{
    const size_t rows = many(8192), pairs = rows * EACH;
    const size_t n = units(HIDDEN), ffn = units(EXPERT_FFN);
    struct ds_route_bwd_args b = {.batch = 1, .seq = rows, .sequence = rows, .experts = EXPERTS};
    struct ds_rows_take_args take_args = {.rows = rows, .each = EACH, .channels = n};
    struct ds_rows_sum_args sum = {.rows = rows, .each = EACH, .channels = n};
    struct ds_swiglu_rows_fwd_args sf = {.rows = pairs, .pairs = pairs, .ffn = ffn};
    struct ds_swiglu_rows_bwd_args sb = {.rows = pairs, .pairs = pairs, .ffn = ffn};
    struct ds_route_args r;
    struct ds_sort_pairs_args s;

    taken = 0;
    r = take_route(rows);
    s = take_order(&r);
    b.each = EACH;
    b.act = take_args.act = sum.act = sf.act = sb.act = DS_BF16;
    b.probs = r.probs;
    b.chosen = r.chosen;
    take_args.sorted = sum.sorted = pairs;
    take_args.source = sf.source = sb.source = s.source;
    take_args.count = sf.count = sb.count = s.offset + EXPERTS;
    sum.place = s.place;
    b.weight = sf.weight = sb.weight = r.weight;
    b.dweight = take_numbers(DS_F32, pairs);
    b.load = r.load;
    b.balance = 0.01f;
    b.grad_scale = 1e-5f;
    b.dlogits = take(rows * EXPERTS * 2);
    take_args.x = sum.residual = take_numbers(DS_BF16, rows * n);
    take_args.y = take(pairs * n * 2);
    sum.x = take_numbers(DS_BF16, pairs * n);
    sum.y = take(rows * n * 2);
    sf.x = sb.x = take_numbers(DS_BF16, pairs * 2 * ffn);
    sb.dy = take_numbers(DS_BF16, pairs * ffn);
    sf.y = take(pairs * ffn * 2);
    sb.dx = take(pairs * 2 * ffn * 2);
    sb.dweight = take(pairs * 4);
    moves("router", DS_OP_ROUTE, run_route, &r);
    moves("order of pairs", DS_OP_SORT_PAIRS, run_sort_pairs, &s);
    moves("router backward", DS_OP_ROUTE_BWD, run_route_bwd, &b);
    moves("rows to experts", DS_OP_ROWS_TAKE, run_rows_take, &take_args);
    moves("rows from experts", DS_OP_ROWS_SUM, run_rows_sum, &sum);
    moves("swiglu of experts", DS_OP_SWIGLU_ROWS_FWD, run_swiglu_rows_fwd, &sf);
    moves("swiglu of experts backward", DS_OP_SWIGLU_ROWS_BWD, run_swiglu_rows_bwd, &sb);
}

static void measure_update(void)
{
    const size_t n = many(124475904);
    struct ds_adamw_args a = {.n = n, .grad_type = DS_F32, .low_type = DS_BF16, .lr = 3e-4};
    struct ds_sumsq_args s = {.n = n};

    taken = 0;
    a.p = take_numbers(DS_F32, n);
    a.m = take_numbers(DS_F32, n);
    a.v = take(n * 4); /* zeros: a root needs them not negative */
    must(ds_stream_clear(stream, a.v, n * 4, &err));
    a.grad = s.x = take_numbers(DS_F32, n);
    a.p_low = take(n * 2);
    s.sum = take(8);
    s.nonfinite = take(8);
    a.beta1 = 0.9;
    a.beta2 = 0.95;
    a.eps = 1e-8;
    a.grad_scale = a.bias1 = a.bias2 = 1.0;
    moves("adamw", DS_OP_ADAMW, run_adamw, &a);
    moves("sum of squares", DS_OP_SUMSQ, run_sumsq, &s);
}

/* --- matrix products ---------------------------------------------------------------------------*/

static const struct layer {
    const char *name;
    size_t tokens, in, out;
    bool out_first; /* the weight is stored [out, in] */
    bool head;      /* gradients are added up, over chunks of tokens */
} layers[] = {
    {"gpt2 qkv", 65536, 768, 2304, false, false},  {"gpt2 proj", 65536, 768, 768, false, false},
    {"gpt2 up", 65536, 768, 3072, false, false},   {"gpt2 down", 65536, 3072, 768, false, false},
    {"gpt2 head", 4096, 768, 50304, true, true},   {"llama qkv", 8192, 2048, 3072, true, false},
    {"llama proj", 8192, 2048, 2048, true, false}, {"llama up", 8192, 2048, 16384, true, false},
    {"llama down", 8192, 8192, 2048, true, false}, {"llama head", 4096, 2048, 128256, true, true},
};

static void measure_product(const char *name, const char *pass, struct ds_matmul_args a)
{
    char what[64];
    size_t d = a.m * a.n * ds_dtype_bytes(a.out_type);

    taken = 0;
    a.in_type = DS_BF16;
    a.a = take_numbers(DS_BF16, a.m * a.k);
    a.b = take_numbers(DS_BF16, a.k * a.n);
    a.lda = a.trans_a ? a.m : a.k;
    a.ldb = a.trans_b ? a.k : a.n;
    a.ldc = a.ldd = a.n;
    a.d = take(d);
    must(ds_stream_clear(stream, a.d, d, &err));
    if (a.c != NULL)
        a.c = a.d;
    if (a.epilogue != DS_EPILOGUE_NONE)
        a.gelu_x = take_numbers(a.out_type, a.m * a.n);
    if (a.dbias != NULL)
        a.dbias = take(a.n * sizeof(float));
    (void)snprintf(what, sizeof(what), "%s %s", name, pass);
    computes(what, DS_OP_MATMUL, run_matmul, &a);
}

/* What a layer of GPT-2 asks its products to do beside, which saves a pass over what they write. */
static void measure_epilogues(void)
{
    const size_t tokens = many(65536), n = 768, wide = many(3072);
    float asked; /* for a dbias */

    measure_product(
        "gpt2 up", "forward, gelu",
        (struct ds_matmul_args){
            .m = tokens, .n = wide, .k = n, .out_type = DS_BF16, .epilogue = DS_EPILOGUE_GELU});
    measure_product("gpt2 down", "dx, gelu backward",
                    (struct ds_matmul_args){.m = tokens,
                                            .n = wide,
                                            .k = n,
                                            .trans_b = true,
                                            .out_type = DS_BF16,
                                            .epilogue = DS_EPILOGUE_GELU_BWD});
    measure_product(
        "gpt2 up", "dw, dbias",
        (struct ds_matmul_args){
            .m = n, .n = wide, .k = tokens, .trans_a = true, .out_type = DS_F32, .dbias = &asked});
}

static void measure_products(void)
{
    for (size_t i = 0; i < sizeof(layers) / sizeof(layers[0]); i++) {
        const struct layer *l = &layers[i];
        size_t tokens = many(l->tokens), out = many(l->out);
        struct ds_matmul_args forward = {.m = tokens, .n = out, .k = l->in};
        struct ds_matmul_args dx = {.m = tokens, .n = l->in, .k = out};
        struct ds_matmul_args dw = {.m = l->in, .n = out, .k = tokens, .trans_a = true};

        forward.trans_b = l->out_first;
        forward.out_type = DS_BF16;
        dx.trans_b = !l->out_first;
        dx.out_type = DS_BF16;
        dw.out_type = DS_F32;
        dw.c = l->head ? memory : NULL; /* added to what is there */
        if (l->out_first) {
            dw.m = out;
            dw.n = l->in;
        }
        measure_product(l->name, "forward", forward);
        measure_product(l->name, "dx", dx);
        measure_product(l->name, "dw", dw);
    }
    measure_epilogues();
}

/* --- products of FP8 ---------------------------------------------------------------------------*/

static struct ds_fp8_cast_args take_codes(size_t rows, size_t cols, enum ds_fp8 type)
{
    struct ds_fp8_cast_args cast = {.rows = rows, .cols = cols, .act = DS_BF16, .type = type};
    struct ds_largest_args largest;

    cast.x = take_numbers(DS_BF16, rows * cols);
    cast.codes = take(rows * cols);
    cast.scale = take(sizeof(float));
    largest = (struct ds_largest_args){
        .n = rows * cols, .act = DS_BF16, .x = cast.x, .largest = take(sizeof(uint32_t))};
    must(ds_largest(&largest, stream, &err));
    cast.largest = largest.largest;
    must(ds_fp8_cast(&cast, stream, &err));
    return cast;
}

/* Gradients are of E5M2, and sums of a weight's of F32. */
static void measure_fp8_product(const char *name, const char *pass, struct ds_matmul_args m)
{
    struct ds_fp8_cast_args a, b;
    char what[64];

    taken = 0;
    a = take_codes(m.m, m.k, m.fp8.a_type);
    b = take_codes(m.n, m.k, m.fp8.b_type);
    m.in_type = DS_U8;
    m.trans_b = true;
    m.a = a.codes;
    m.b = b.codes;
    m.fp8.a_scale = a.scale;
    m.fp8.b_scale = b.scale;
    m.lda = m.ldb = m.k;
    m.ldc = m.ldd = m.n;
    m.d = take(m.m * m.n * ds_dtype_bytes(m.out_type));
    (void)snprintf(what, sizeof(what), "%s %s, fp8", name, pass);
    computes(what, DS_OP_MATMUL, run_matmul, &m);
}

static void measure_fp8(void)
{
    static const struct {
        const char *name;
        size_t tokens, in, out;
    } layer[] = {{"gpt2 up", 65536, 768, 3072},
                 {"llama up", 8192, 2048, 16384},
                 {"llama down", 8192, 8192, 2048}};
    struct ds_fp8_cast_args cast;
    struct ds_largest_args largest;

    measure_copy("copy", many((size_t)1 << 30));
    taken = 0;
    cast = take_codes(units(65536), 3072, DS_E4M3);
    largest = (struct ds_largest_args){
        .n = cast.rows * cast.cols, .act = DS_BF16, .x = cast.x, .largest = take(sizeof(uint32_t))};
    moves("largest element", DS_OP_LARGEST, run_largest, &largest);
    moves("cast to fp8", DS_OP_FP8_CAST, run_fp8_cast, &cast);
    cast.turned = take(cast.rows * cast.cols);
    moves("cast to fp8, turned too", DS_OP_FP8_CAST, run_fp8_cast, &cast);
    for (size_t i = 0; i < sizeof(layer) / sizeof(layer[0]); i++) {
        size_t tokens = units(layer[i].tokens), in = layer[i].in, out = units(layer[i].out);
        struct ds_matmul_args forward = {.m = tokens, .n = out, .k = in, .out_type = DS_BF16};
        struct ds_matmul_args dx = {.m = tokens, .n = in, .k = out, .out_type = DS_BF16};
        struct ds_matmul_args dw = {.m = in, .n = out, .k = tokens, .out_type = DS_F32};

        forward.fp8.fast = true;
        dx.fp8.a_type = dw.fp8.b_type = DS_E5M2;
        measure_fp8_product(layer[i].name, "forward", forward);
        measure_fp8_product(layer[i].name, "dx", dx);
        measure_fp8_product(layer[i].name, "dw", dw);
    }
}

/* --- products of experts -----------------------------------------------------------------------*/

/* And the same product as if all rows had one matrix. */
static void measure_expert_product(const char *name, const char *pass,
                                   struct ds_experts_matmul_args a, struct ds_matmul_args dense)
{
    const bool weights = a.product == DS_EXPERTS_BWD_W;
    const size_t matrices = EXPERTS * a.in * a.out;
    const size_t written = a.rows * (a.product == DS_EXPERTS_FWD ? a.out : a.in);
    struct ds_route_args r;
    char what[64];

    taken = 0;
    a.experts = EXPERTS;
    a.act = DS_BF16;
    r = take_route(a.rows / EACH);
    a.offset = take_order(&r).offset;
    a.x = take_numbers(DS_BF16, a.rows * a.in);
    a.y = take_numbers(DS_BF16, a.rows * a.out);
    a.weight = weights ? NULL : take_numbers(DS_BF16, matrices);
    a.to = take(weights ? matrices * 4 : written * 2);
    (void)snprintf(what, sizeof(what), "%s %s", name, pass);
    computes(what, DS_OP_EXPERTS_MATMUL, run_experts_matmul, &a);
    (void)snprintf(what, sizeof(what), "%s, dense", name);
    measure_product(what, pass, dense);
}

static void measure_experts(void)
{
    static const struct {
        const char *name;
        size_t in, out;
    } layer[] = {{"experts up", HIDDEN, 2 * EXPERT_FFN}, {"experts down", EXPERT_FFN, HIDDEN}};
    const size_t rows = many(8192) * EACH;

    for (size_t i = 0; i < sizeof(layer) / sizeof(layer[0]); i++) {
        struct ds_experts_matmul_args a = {
            .rows = rows, .in = units(layer[i].in), .out = units(layer[i].out)};
        struct ds_matmul_args forward = {.m = rows, .n = a.out, .k = a.in, .trans_b = true};
        struct ds_matmul_args dx = {.m = rows, .n = a.in, .k = a.out};
        struct ds_matmul_args dw = {.m = a.out, .n = a.in, .k = rows, .trans_a = true};

        forward.out_type = dx.out_type = DS_BF16;
        dw.out_type = DS_F32;
        measure_expert_product(layer[i].name, "forward", a, forward);
        a.product = DS_EXPERTS_BWD_X;
        measure_expert_product(layer[i].name, "dx", a, dx);
        a.product = DS_EXPERTS_BWD_W;
        measure_expert_product(layer[i].name, "dw", a, dw);
    }
}

/* --- attention ---------------------------------------------------------------------------------*/

static void measure_attention(const char *name, size_t batch, size_t longest, size_t heads,
                              size_t kv_heads, size_t size)
{
    size_t seq = many(longest), rows = batch * seq, wide = (heads + 2 * kv_heads) * size;
    struct ds_attention_fwd_args f = {
        .batch = batch, .seq = seq, .heads = heads, .kv_heads = kv_heads, .head_size = size};
    struct ds_attention_bwd_args b = {
        .batch = batch, .seq = seq, .heads = heads, .kv_heads = kv_heads, .head_size = size};
    char what[64];

    taken = 0;
    f.act = b.act = DS_BF16;
    f.scale = b.scale = size == 64 ? 0.125f : 0.08838835f;
    f.qkv = b.qkv = take_numbers(DS_BF16, rows * wide);
    b.dout = take_numbers(DS_BF16, rows * heads * size);
    b.out = f.out = take(rows * heads * size * 2);
    b.lse = f.lse = take(rows * heads * 4);
    b.dqkv = take(rows * wide * 2);
    computes(name, DS_OP_ATTENTION_FWD, run_attention_fwd, &f);
    (void)snprintf(what, sizeof(what), "%s backward", name);
    computes(what, DS_OP_ATTENTION_BWD, run_attention_bwd, &b);
}

/* Smaller: of one sequence, and one head of keys. */
static void attention(const char *name, size_t batch, size_t seq, size_t heads, size_t kv_heads,
                      size_t size)
{
    if (shrink > 1)
        measure_attention(name, 1, seq, heads / kv_heads, 1, size);
    else
        measure_attention(name, batch, seq, heads, kv_heads, size);
}

static void open_device(const char *path, bool fp8)
{
    const struct ds_device_args args = {
        .name = "cuda", .threads = 1, .scratch_bytes = SCRATCH / shrink, .fp8 = fp8};
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL), *symbol, *room;
    ds_plugin_entry_fn *entry;
    const struct ds_plugin *plugin;

    symbol = handle != NULL ? dlsym(handle, DS_PLUGIN_ENTRY) : NULL;
    memcpy(&entry, &symbol, sizeof(entry));
    plugin = symbol != NULL ? entry() : NULL;
    if (plugin == NULL || plugin->abi != DS_PLUGIN_ABI || plugin->size != sizeof(*plugin)) {
        fprintf(stderr, "gpu_kernels: the plug-in '%s' cannot be loaded\n", path);
        exit(1);
    }
    ds_device_add(plugin->device);
    must(ds_device_open(&device, &args, &err));
    stream = ds_device_stream(device);
    must(ds_device_alloc(device, ROOM / shrink, &room, &err));
    memory = room;
}

int main(int argc, char **argv)
{
    if (argc == 4)
        shrink = strtoul(argv[3], NULL, 10);
    if (argc < 3 || argc > 4 || shrink == 0) {
        fprintf(stderr,
                "usage: gpu_kernels PLUGIN products|fp8|memory|attention|experts [SHRINK]\n");
        return 2;
    }
    open_device(argv[1], strcmp(argv[2], "fp8") == 0);
    if (strcmp(argv[2], "products") == 0) {
        measure_products();
    } else if (strcmp(argv[2], "fp8") == 0) {
        measure_fp8();
    } else if (strcmp(argv[2], "experts") == 0) {
        measure_experts();
    } else if (strcmp(argv[2], "attention") == 0) {
        attention("attention d64 1k", 64, 1024, 12, 12, 64);
        attention("attention d64 4k grouped", 2, 4096, 32, 8, 64);
        attention("attention d128 4k grouped", 2, 4096, 32, 8, 128);
    } else {
        measure_copy("copy", many((size_t)1 << 30));
        measure_copy("copy of 32 MiB",
                     many((size_t)32 << 20)); /* as a hidden state of Llama's is */
        measure_norms(DS_NORM_LAYER, many(65536), 768);
        measure_norms(DS_NORM_RMS, many(8192), 2048);
        measure_head_norms();
        measure_pointwise();
        measure_ends();
        measure_shared_loss();
        measure_router();
        measure_update();
    }
    ds_device_free(device, memory, ROOM / shrink);
    ds_device_close(device);
    return 0;
}
