/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * attention.c - causal attention in tiles of queries by keys.
 *
 * Forward: a task is a span of queries of one head; it goes over tiles of keys
 * with a running maximum and sum; of many rows behind those of a cache, too
 * (attention_cached.c).  Backward: a task is one
 * key/value head of one sequence with all its query heads, so that the
 * gradients of keys and values have one writer.  Tiles are F32 in scratch
 * memory; BF16 is widened on the way in and rounded on the way out.  Products
 * skip what the mask hides, to within a few rows.  Of keys in front of those that a query sees,
 * those in front of the first query's of a tile are passed over, and others have weight 0.
 *
 * Dropout takes its random words from their counters, a row of a tile at a time, after the sum of
 * the row and before the product with the values; gradients of weights pass the same mask.
 *
 * Source  Dao et al., "FlashAttention", NeurIPS 2022, algorithms 1 and 4
 */
#include "kernels/cpu/cached.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/draw.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/tile_rows.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum {
    QB = DS_QUERY_BLOCK,
    KB = DS_KEY_BLOCK,
    SPAN = DS_QUERY_SPAN,
    SCORE_LD = DS_SCORE_LD,
    ROWS = DS_PANEL_ROWS,
    COLUMNS = DS_PANEL_COLUMNS,
    DRAWN = 16, /* blocks of random words at a time */
};

/* What both directions know of the shapes. */
struct shape {
    size_t batch, seq, heads, kv_heads, size; /* size: of a head */
    size_t width;                             /* of a row of a tile: size, rounded up to panels */
    size_t group;                             /* query heads per key/value head */
    size_t ld;                                /* of a packed row of qkv */
    enum ds_dtype act;
    float scale;
    struct ds_attention_drop drop;
    const uint32_t *low; /* [batch, seq], or NULL */
    size_t window;       /* of a cache, or 0 */
};

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static struct shape make_shape(size_t batch, size_t seq, size_t heads, size_t kv_heads, size_t size)
{
    return (struct shape){.batch = batch,
                          .seq = seq,
                          .heads = heads,
                          .kv_heads = kv_heads,
                          .size = size,
                          .width = round_up(size, COLUMNS),
                          .group = heads / kv_heads,
                          .ld = (heads + 2 * kv_heads) * size};
}

/* Are there queries that do not see all keys up to their own? */
static bool is_cut(const struct shape *sh)
{
    return sh->low != NULL || sh->window != 0;
}

/* The first key that a query sees. */
static size_t first_key(const struct shape *sh, size_t b, size_t query)
{
    if (sh->window != 0)
        return query < sh->window ? 0 : query + 1 - sh->window;
    return sh->low != NULL ? ds__min(sh->low[b * sh->seq + query], query) : 0;
}

/* A thread's tiles.  Of keys and values: transposed panels (`kt`, `vt`, see panel.h) and rows. */
struct tiles {
    float *s, *p;           /* [QB][SCORE_LD] */
    float *q, *dout, *dq;   /* [QB][width] */
    float *max, *sum, *dot; /* [SPAN] */
    float *kt, *vt;         /* forward: of one tile of keys; backward: of all keys */
    float *rows;            /* forward: values of the tile; backward: keys */
    float *dk, *dv;         /* [seq][width] */
    float *o;               /* forward: [SPAN][width]; backward: [QB][width] */
};

static struct tiles carve(const struct shape *sh, float *scratch, unsigned thread)
{
    size_t row = QB * sh->width, column = round_up(sh->seq, COLUMNS) * sh->width;
    struct tiles t = {.s = scratch + thread * ds__attention_floats(sh->seq, sh->size)};

    t.p = t.s + (size_t)QB * SCORE_LD;
    t.q = t.p + (size_t)QB * SCORE_LD;
    t.dout = t.q + row;
    t.dq = t.dout + row;
    t.o = t.dq + row;
    t.max = t.o + ds__min(SPAN, round_up(sh->seq, QB)) * sh->width;
    t.sum = t.max + SPAN;
    t.dot = t.sum + SPAN;
    t.kt = t.dot + SPAN;
    t.vt = t.kt + column;
    t.rows = t.vt + column;
    t.dk = t.rows + column;
    t.dv = t.dk + column;
    return t;
}

/* Rows of one head at x[at] as rows of a tile. */
static void gather(const struct shape *sh, const void *x, size_t at, size_t ld, size_t rows,
                   float *to)
{
    DS_TYPED(sh->act, ds__gather(T, x, at, ld, rows, sh->size, to, sh->width));
}

static void scatter(const struct shape *sh, const float *from, size_t rows, void *x, size_t at,
                    size_t ld)
{
    DS_TYPED(sh->act, ds__scatter(T, from, sh->width, rows, sh->size, x, at, ld));
}

/* Rows of a tile as transposed panels. */
static void transpose(const struct shape *sh, const float *x, size_t rows, float *to)
{
    struct ds_pack pack = {.type = DS_F32,
                           .trans = true,
                           .from = x,
                           .ld = sh->width,
                           .m = rows,
                           .k = sh->size,
                           .to = to};

    DS_ISA(ds__pack_b)(&pack);
}

/* A tile: `rows` queries from `query` against `keys` keys from `first` <= query, a multiple of QB;
 * `head` counts the query heads of all sequences. */
struct tile {
    size_t head, query, rows, first, keys;
};

/* s = x y^T where the mask lets it through: x rows of queries, y panels from the tile's first. */
static void scores(const struct shape *sh, struct tile t, const float *x, const float *y, float *s)
{
    struct ds_panel panel = {.k = sh->size,
                             .a_row = sh->width,
                             .a_col = 1,
                             .a_group = ROWS * sh->width,
                             .b_row = COLUMNS,
                             .ldc = SCORE_LD};

    for (size_t j = 0; j < t.keys; j += COLUMNS) {
        size_t hidden = t.first + j > t.query ? t.first + j - t.query : 0;
        size_t skip = hidden / ROWS * ROWS; /* rows that see none of these keys */

        if (skip >= t.rows)
            break;
        panel.m = t.rows - skip;
        panel.n = ds__min(COLUMNS, t.keys - j);
        panel.a = x + skip * sh->width;
        panel.b = y + j * sh->size;
        panel.c = s + skip * SCORE_LD + j;
        DS_ISA(ds__panel)(&panel);
    }
}

/* out (+)= s y: weights of keys times rows of keys. */
static void by_rows(const struct shape *sh, struct tile t, const float *s, const float *y,
                    float *out, bool add)
{
    struct ds_panel panel = {.m = t.rows,
                             .k = t.keys,
                             .a = s,
                             .a_row = SCORE_LD,
                             .a_col = 1,
                             .a_group = ROWS * SCORE_LD,
                             .b_row = sh->width,
                             .ldc = sh->width,
                             .add = add,
                             .part = DS_PANEL_BELOW,
                             .diagonal = t.query - t.first};

    for (size_t j = 0; j < sh->size; j += COLUMNS) {
        panel.n = ds__min(COLUMNS, sh->size - j);
        panel.b = y + j;
        panel.c = out + j;
        DS_ISA(ds__panel)(&panel);
    }
}

/* out += s^T y: weights of queries times rows of queries. */
static void by_columns(const struct shape *sh, struct tile t, const float *s, const float *y,
                       float *out)
{
    struct ds_panel panel = {.m = t.keys,
                             .k = t.rows,
                             .a = s,
                             .a_row = 1,
                             .a_col = SCORE_LD,
                             .a_group = ROWS,
                             .b_row = sh->width,
                             .ldc = sh->width,
                             .add = true,
                             .part = DS_PANEL_ABOVE,
                             .diagonal = t.query - t.first};

    for (size_t j = 0; j < sh->size; j += COLUMNS) {
        panel.n = ds__min(COLUMNS, sh->size - j);
        panel.b = y + j;
        panel.c = out + j;
        DS_ISA(ds__panel)(&panel);
    }
}

/* Keys of a tile that row `r` sees. */
static size_t visible(struct tile t, size_t r)
{
    return ds__min(t.keys, t.query + r - t.first + 1);
}

/* Those of them in front of the first that it sees; as many or more: it sees none. */
static size_t unseen(const struct shape *sh, struct tile t, size_t r)
{
    size_t low = first_key(sh, t.head / sh->heads, t.query + r);

    return low > t.first ? low - t.first : 0;
}

static void lowest(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = -INFINITY;
}

/* Zeros behind the `seen` first elements, as far as products read. */
DS_INLINE void clear_hidden(float *s, size_t seen, size_t keys)
{
    size_t end = ds__min(keys, seen + ROWS);

    for (size_t i = round_up(seen, DS_LANES); i < end; i += DS_LANES)
        ds_vec_store(s + i, (ds_vec){0});
}

/* The same of a row that sees no key of the tile. */
static void clear_row(float *s, size_t seen, size_t keys)
{
    memset(s, 0, ds__min(keys, seen + ROWS) * sizeof(float));
}

/* s = exp(scale s - shift) over the `seen` first elements; their sum. */
static float exp_row(float *s, size_t seen, size_t keys, float scale, float shift)
{
    float sum = ds__exp_row(s, seen, scale, shift);

    clear_hidden(s, seen, keys);
    return sum;
}

/* For the weights of row `r`, with something behind the `seen` first: 0 where one is dropped, else
 * 1 / (1 - rate). */
static void keep_row(const struct shape *sh, struct tile t, size_t r, size_t seen, float *keep)
{
    size_t b = t.head / sh->heads, heads = sh->drop.heads != 0 ? sh->drop.heads : sh->heads;
    uint64_t head = (sh->drop.first + b) * heads + sh->drop.head + t.head % sh->heads;
    uint64_t row = head * sh->seq + t.query + r;
    uint64_t block = row * ds__div_up(sh->seq, 4) + t.first / 4;
    uint32_t word[4 * DRAWN], below = ds__draw_below(sh->drop.rate);
    float scale = ds__draw_scale(sh->drop.rate);

    for (size_t i = 0; i < seen; i += 4 * DRAWN, block += DRAWN) {
        ds__draw((struct ds_draw){sh->drop.seed, sh->drop.stream, block}, DRAWN, word);
        for (size_t j = 0; j < 4 * DRAWN; j += DS_LANES)
            ds_vec_store(keep + i + j, ds__draw_keep(ds_vec_set(1.0f), word + j, below, scale));
    }
}

/* Queries of rows `before` .. seq - 1; keys and values of all are with them, or in a cache. */
struct fwd {
    struct shape shape;
    size_t before;
    const void *qkv;
    const struct ds_attention_cached_args *cache; /* or NULL */
    void *out;
    float *lse; /* or NULL */
    float *scratch;
};

/* Have rows of a span outputs and statistics before a tile?  Where queries do not see all keys, a
 * span begins with those of no keys at all. */
static bool goes_on(const struct shape *sh, struct tile t)
{
    return t.first != 0 || is_cut(sh);
}

static void fwd_begin(const struct shape *sh, const struct tiles *ts, size_t count)
{
    memset(ts->o, 0, count * sh->width * sizeof(float));
    memset(ts->sum, 0, count * sizeof(float));
    lowest(ts->max, count);
}

/* Scores become weights; sums and outputs so far are brought to the new maximum. */
static void fwd_softmax(const struct shape *sh, const struct tiles *ts, struct tile t, float *o,
                        float *row_max, float *row_sum)
{
    float keep[KB] DS_UNINITIALIZED;

    for (size_t r = 0; r < t.rows; r++) {
        float *s = ts->s + r * SCORE_LD;
        size_t seen = visible(t, r), from = unseen(sh, t, r);
        float max, shrink = 0.0f;

        if (from >= seen) {
            clear_row(s, seen, t.keys);
            continue;
        }
        lowest(s, from);
        max = ds__largest_of(s, seen) * sh->scale;
        if (goes_on(sh, t)) {
            max = max > row_max[r] ? max : row_max[r];
            shrink = expf(row_max[r] - max);
            if (shrink != 1.0f)
                ds__scale_row(o + r * sh->width, sh->width, shrink);
            shrink *= row_sum[r];
        }
        row_max[r] = max;
        row_sum[r] = shrink + exp_row(s, seen, t.keys, sh->scale, max);
        if (sh->drop.rate > 0.0) {
            keep_row(sh, t, r, seen, keep);
            ds__multiply_row(s, keep, seen);
        }
    }
}

/* Loaded are the keys from the multiple of KB on. */
static void fwd_tile(const struct fwd *f, struct tiles *ts, struct tile t, size_t at, size_t r)
{
    const struct shape *sh = &f->shape;
    size_t skipped = t.first % KB;
    float *o = ts->o + r * sh->width;

    gather(sh, f->qkv, at, sh->ld, t.rows, ts->q);
    scores(sh, t, ts->q, ts->kt + skipped * sh->size, ts->s);
    fwd_softmax(sh, ts, t, o, ts->max + r, ts->sum + r);
    by_rows(sh, t, ts->s, ts->rows + skipped * sh->width, o, goes_on(sh, t));
}

/* Outputs and lse of `count` queries from `begin`. */
static void fwd_finish(const struct fwd *f, struct tiles *ts, size_t b, size_t h, size_t begin,
                       size_t count)
{
    const struct shape *sh = &f->shape;
    size_t row = b * (sh->seq - f->before) + begin - f->before;

    for (size_t r = 0; r < count; r++) {
        ds__scale_row(ts->o + r * sh->width, sh->width, 1.0f / ts->sum[r]);
        if (f->lse != NULL)
            f->lse[(b * sh->heads + h) * sh->seq + begin + r] = ts->max[r] + logf(ts->sum[r]);
    }
    scatter(sh, ts->o, count, f->out, (row * sh->heads + h) * sh->size, sh->heads * sh->size);
}

/* Keys first .. first + keys - 1 of a key/value head as panels, and their values as rows. */
static void fwd_load(const struct fwd *f, struct tiles *ts, size_t b, size_t kv, size_t first,
                     size_t keys)
{
    const struct shape *sh = &f->shape;
    size_t key_at = (b * sh->seq + first) * sh->ld + (sh->heads + kv) * sh->size;

    if (f->cache == NULL) {
        gather(sh, f->qkv, key_at, sh->ld, keys, ts->rows);
        transpose(sh, ts->rows, keys, ts->kt);
        gather(sh, f->qkv, key_at + sh->kv_heads * sh->size, sh->ld, keys, ts->rows);
        return;
    }
    for (size_t j = 0; j < keys; j += DS_CACHE_TILE) {
        struct ds_pack pack = {.type = sh->act,
                               .from = f->cache->keys,
                               .at = (kv * f->cache->room + first + j) * sh->size,
                               .ld = DS_CACHE_TILE,
                               .m = ds__min(DS_CACHE_TILE, keys - j),
                               .k = sh->size,
                               .to = ts->kt + j * sh->size};

        DS_ISA(ds__pack_b)(&pack);
    }
    gather(sh, f->cache->values, (kv * f->cache->room + first) * sh->size, sh->size, keys,
           ts->rows);
}

static void fwd_task(void *arg, size_t task, unsigned thread)
{
    const struct fwd *f = arg;
    const struct shape *sh = &f->shape;
    struct tiles ts = carve(sh, f->scratch, thread);
    size_t heads = sh->batch * sh->heads, spans = ds__div_up(sh->seq - f->before, SPAN);
    size_t b = task % heads / sh->heads, h = task % sh->heads;
    size_t begin = f->before + (spans - 1 - task / heads) * SPAN; /* the longest first */
    size_t end = ds__min(begin + SPAN, sh->seq);

    if (is_cut(sh))
        fwd_begin(sh, &ts, end - begin);
    for (size_t first = first_key(sh, b, begin) / KB * KB; first < end; first += KB) {
        size_t keys = ds__min(KB, end - first);

        fwd_load(f, &ts, b, h / sh->group, first, keys);
        for (size_t query = begin > first ? begin : first; query < end; query += QB) {
            struct tile t = {b * sh->heads + h, query, ds__min(QB, end - query), first, 0};
            size_t row = b * (sh->seq - f->before) + query - f->before;
            size_t low = first_key(sh, b, query);

            if (low >= first + keys)
                continue;
            t.first += low > first ? (low - first) / QB * QB : 0;
            t.keys = ds__min(first + keys, query + t.rows) - t.first;
            fwd_tile(f, &ts, t, row * sh->ld + h * sh->size, query - begin);
        }
    }
    fwd_finish(f, &ts, b, h, begin, end - begin);
}

static int fwd_run(struct fwd *f, struct ds_stream *stream, struct ds_error *err)
{
    const struct shape *sh = &f->shape;
    size_t need = ds__need_attention(ds__cpu_threads(stream), sh->seq, sh->size);
    int rc = ds__cpu_scratch(stream, need, &f->scratch, err);

    if (rc != 0)
        return rc;
    ds__cpu_run(stream, sh->batch * sh->heads * ds__div_up(sh->seq - f->before, SPAN), fwd_task, f);
    return 0;
}

int DS_ISA(ds__cpu_attention_fwd)(const struct ds_attention_fwd_args *args,
                                  struct ds_stream *stream, struct ds_error *err)
{
    struct fwd f = {
        .shape = make_shape(args->batch, args->seq, args->heads, args->kv_heads, args->head_size),
        .qkv = args->qkv,
        .out = args->out,
        .lse = args->lse};

    f.shape.act = args->act;
    f.shape.scale = args->scale;
    f.shape.drop = args->drop;
    f.shape.low = args->low;
    return fwd_run(&f, stream, err);
}

int DS_ISA(ds__attention_behind)(const struct ds_attention_cached_args *args,
                                 struct ds_stream *stream, struct ds_error *err)
{
    struct fwd f = {.shape = make_shape(1, args->first + args->seq, args->heads, args->kv_heads,
                                        args->head_size),
                    .before = args->first,
                    .qkv = args->qkv,
                    .cache = args,
                    .out = args->out};

    f.shape.act = args->act;
    f.shape.scale = args->scale;
    f.shape.window = args->window;
    return fwd_run(&f, stream, err);
}

struct bwd {
    const struct ds_attention_bwd_args *a;
    struct shape shape;
    float *scratch;
};

/* s: scores to weights as the values saw them; p: their gradients to gradients of scores. */
static void bwd_softmax(const struct shape *sh, const struct tiles *ts, struct tile t,
                        const float *lse)
{
    bool drops = sh->drop.rate > 0.0;
    float keep[KB] DS_UNINITIALIZED;

    for (size_t r = 0; r < t.rows; r++) {
        float *s = ts->s + r * SCORE_LD, *p = ts->p + r * SCORE_LD, dot = ts->dot[r];
        size_t seen = visible(t, r), from = unseen(sh, t, r), i = 0;

        if (from >= seen) {
            clear_row(s, seen, t.keys);
            clear_row(p, seen, t.keys);
            continue;
        }
        lowest(s, from);
        (void)exp_row(s, seen, t.keys, sh->scale, lse[r]);
        if (drops) {
            keep_row(sh, t, r, seen, keep);
            ds__multiply_row(p, keep, seen);
        }
        for (; i + DS_LANES <= seen; i += DS_LANES)
            ds_vec_store(p + i, ds_vec_load(s + i) * ((ds_vec_load(p + i) - dot) * sh->scale));
        if (i < seen) {
            ds_vec x = ds_vec_load(s + i) * ((ds_vec_load(p + i) - dot) * sh->scale);

            ds_vec_store(p + i, ds_vec_pick(ds__first_lanes(seen - i), x, (ds_vec){0}));
        }
        clear_hidden(p, seen, t.keys);
        if (drops)
            ds__multiply_row(s, keep, seen);
    }
}

/* A block of queries of one head against all the keys it sees. */
static void bwd_block(const struct bwd *w, struct tiles *ts, size_t b, size_t h, size_t query)
{
    const struct ds_attention_bwd_args *a = w->a;
    const struct shape *sh = &w->shape;
    size_t rows = ds__min(QB, sh->seq - query), out_ld = sh->heads * sh->size;
    size_t at = (b * sh->seq + query) * sh->ld + h * sh->size;
    size_t out_at = (b * sh->seq + query) * out_ld + h * sh->size;
    size_t begin = first_key(sh, b, query) / QB * QB;
    const float *lse = a->lse + (b * sh->heads + h) * sh->seq + query;

    gather(sh, a->qkv, at, sh->ld, rows, ts->q);
    gather(sh, a->out, out_at, out_ld, rows, ts->o);
    gather(sh, a->dout, out_at, out_ld, rows, ts->dout);
    for (size_t r = 0; r < rows; r++)
        ts->dot[r] = ds__row_dot(ts->o + r * sh->width, ts->dout + r * sh->width, sh->size);
    for (size_t first = begin; first < query + rows; first += KB) {
        struct tile t = {b * sh->heads + h, query, rows, first, ds__min(KB, query + rows - first)};
        size_t row = first * sh->width;

        scores(sh, t, ts->q, ts->kt + first * sh->size, ts->s);
        scores(sh, t, ts->dout, ts->vt + first * sh->size, ts->p);
        bwd_softmax(sh, ts, t, lse);
        by_columns(sh, t, ts->s, ts->dout, ts->dv + row);
        by_columns(sh, t, ts->p, ts->q, ts->dk + row);
        by_rows(sh, t, ts->p, ts->rows + row, ts->dq, first != begin);
    }
    scatter(sh, ts->dq, rows, a->dqkv, at, sh->ld);
}

static void bwd_task(void *arg, size_t task, unsigned thread)
{
    const struct bwd *w = arg;
    const struct ds_attention_bwd_args *a = w->a;
    const struct shape *sh = &w->shape;
    struct tiles ts = carve(sh, w->scratch, thread);
    size_t b = task / sh->kv_heads, kv = task % sh->kv_heads;
    size_t key_at = b * sh->seq * sh->ld + (sh->heads + kv) * sh->size;
    size_t value_at = key_at + sh->kv_heads * sh->size;

    gather(sh, a->qkv, value_at, sh->ld, sh->seq, ts.rows);
    transpose(sh, ts.rows, sh->seq, ts.vt);
    gather(sh, a->qkv, key_at, sh->ld, sh->seq, ts.rows);
    transpose(sh, ts.rows, sh->seq, ts.kt);
    memset(ts.dk, 0, sh->seq * sh->width * sizeof(float));
    memset(ts.dv, 0, sh->seq * sh->width * sizeof(float));
    for (size_t h = kv * sh->group; h < (kv + 1) * sh->group; h++) {
        for (size_t query = 0; query < sh->seq; query += QB)
            bwd_block(w, &ts, b, h, query);
    }
    scatter(sh, ts.dk, sh->seq, a->dqkv, key_at, sh->ld);
    scatter(sh, ts.dv, sh->seq, a->dqkv, value_at, sh->ld);
}

int DS_ISA(ds__cpu_attention_bwd)(const struct ds_attention_bwd_args *args,
                                  struct ds_stream *stream, struct ds_error *err)
{
    struct bwd w = {
        .a = args,
        .shape = make_shape(args->batch, args->seq, args->heads, args->kv_heads, args->head_size)};
    size_t need = ds__need_attention(ds__cpu_threads(stream), args->seq, args->head_size);
    int rc = ds__cpu_scratch(stream, need, &w.scratch, err);

    if (rc != 0)
        return rc;
    w.shape.act = args->act;
    w.shape.scale = args->scale;
    w.shape.drop = args->drop;
    w.shape.low = args->low;
    ds__cpu_run(stream, args->batch * args->kv_heads, bwd_task, &w);
    return 0;
}
