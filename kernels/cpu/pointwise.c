/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * pointwise.c - GELU, SwiGLU, rotary positions, multiples of a matrix and of the diagonal, casts.
 *
 * The tanh form of GELU is x times a sigmoid: 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)), which
 * keeps its relative accuracy where tanh is near -1.  The other form is x times the share of a
 * normal distribution that lies below x.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/need.h"
#include "kernels/cpu/vec.h"

#include <math.h>

enum { SPAN = 8192, ROPE_POSITIONS = 16 };

#define GELU_A 1.5957691216f  /* 2 sqrt(2 / pi) */
#define GELU_B 0.07135481627f /* GELU_A * 0.044715 */

/* The share of a normal distribution below x, and its density there.  erfc(z) exp(z^2) is a
 * polynomial in t = 1 / (1 + 0.4 z), fitted from 0 to 10 so that it is 3e-8 of itself off at most;
 * so small shares are accurate, too. */
struct normal {
    ds_vec below, density;
};

DS_INLINE struct normal normal_at(ds_vec x)
{
    ds_vec t = 1.0f / (1.0f + 0.282842712f * ds_vec_max(x, -x));
    ds_vec e = ds_vec_exp(-0.5f * x * x), p = 2.869574561e-2f * t - 7.474887675e-2f;

    p = p * t - 6.368671352e-2f;
    p = p * t + 2.757889872e-1f;
    p = p * t - 6.856751316e-2f;
    p = p * t + 2.686380585e-1f;
    p = p * t + 1.774161915e-1f;
    p = p * t + 2.313551715e-1f;
    p = p * t + 2.250825740e-1f;
    p = 0.5f * e * (p * t + 2.640531243e-5f);
    return (struct normal){.below = ds_vec_pick((ds_ivec)(x < 0.0f), p, 1.0f - p),
                           .density = 0.398942280f * e};
}

DS_INLINE ds_vec gelu(enum ds_gelu kind, ds_vec x)
{
    if (kind == DS_GELU_ERF)
        return x * normal_at(x).below;
    return x * ds_vec_sigmoid(x * (GELU_A + GELU_B * x * x)).value;
}

DS_INLINE ds_vec gelu_slope(enum ds_gelu kind, ds_vec x)
{
    ds_vec square = x * x;
    struct ds_sigmoid s;
    struct normal n;

    if (kind == DS_GELU_ERF) {
        n = normal_at(x);
        return n.below + x * n.density;
    }
    s = ds_vec_sigmoid(x * (GELU_A + GELU_B * square));
    return s.value + s.value * s.complement * x * (GELU_A + 3.0f * GELU_B * square);
}

DS_INLINE void gelu_fwd(enum ds_dtype act, enum ds_gelu kind, const void *x, void *y, size_t i,
                        size_t end)
{
    for (; i + DS_LANES <= end; i += DS_LANES)
        ds_store(act, y, i, gelu(kind, ds_load(act, x, i)));
    if (i < end)
        ds_store_part(act, y, i, end - i, gelu(kind, ds_load_part(act, x, i, end - i)));
}

static void gelu_fwd_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_gelu_fwd_args *a = arg;
    size_t begin = task * SPAN, end = ds__min(begin + SPAN, a->n);

    (void)thread;
    if (a->kind == DS_GELU_ERF)
        DS_TYPED(a->act, gelu_fwd(T, DS_GELU_ERF, a->x, a->y, begin, end));
    else
        DS_TYPED(a->act, gelu_fwd(T, DS_GELU_TANH, a->x, a->y, begin, end));
}

int DS_ISA(ds__cpu_gelu_fwd)(const struct ds_gelu_fwd_args *args, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct ds_gelu_fwd_args a = *args;

    (void)err;
    ds__cpu_run(stream, ds__div_up(a.n, SPAN), gelu_fwd_task, &a);
    return 0;
}

DS_INLINE void gelu_bwd(enum ds_dtype act, enum ds_gelu kind, const void *x, const void *dy,
                        void *dx, size_t i, size_t end)
{
    for (; i + DS_LANES <= end; i += DS_LANES)
        ds_store(act, dx, i, ds_load(act, dy, i) * gelu_slope(kind, ds_load(act, x, i)));
    if (i < end)
        ds_store_part(act, dx, i, end - i,
                      ds_load_part(act, dy, i, end - i) *
                          gelu_slope(kind, ds_load_part(act, x, i, end - i)));
}

static void gelu_bwd_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_gelu_bwd_args *a = arg;
    size_t begin = task * SPAN, end = ds__min(begin + SPAN, a->n);

    (void)thread;
    if (a->kind == DS_GELU_ERF)
        DS_TYPED(a->act, gelu_bwd(T, DS_GELU_ERF, a->x, a->dy, a->dx, begin, end));
    else
        DS_TYPED(a->act, gelu_bwd(T, DS_GELU_TANH, a->x, a->dy, a->dx, begin, end));
}

int DS_ISA(ds__cpu_gelu_bwd)(const struct ds_gelu_bwd_args *args, struct ds_stream *stream,
                             struct ds_error *err)
{
    struct ds_gelu_bwd_args a = *args;

    (void)err;
    ds__cpu_run(stream, ds__div_up(a.n, SPAN), gelu_bwd_task, &a);
    return 0;
}

/* What a gate lets through, and its slope. */
struct gated {
    ds_vec value, slope;
};

DS_INLINE struct gated gate_of(enum ds_gate gate, ds_vec x)
{
    struct ds_sigmoid s;
    ds_vec value;

    if (gate == DS_GATE_GELU)
        return (struct gated){gelu(DS_GELU_TANH, x), gelu_slope(DS_GELU_TANH, x)};
    s = ds_vec_sigmoid(x);
    value = x * s.value;
    return (struct gated){value, s.value + value * s.complement};
}

/* One row [F gates | F ups], times its weight. */
DS_INLINE void swiglu_fwd(enum ds_dtype act, enum ds_gate by, size_t ffn, const void *x, void *y,
                          size_t row, float weight)
{
    size_t in = row * 2 * ffn, out = row * ffn, i = 0;

    for (; i + DS_LANES <= ffn; i += DS_LANES) {
        ds_vec gate = ds_load(act, x, in + i), up = ds_load(act, x, in + ffn + i);

        ds_store(act, y, out + i, gate_of(by, gate).value * up * weight);
    }
    if (i < ffn) {
        ds_vec gate = ds_load_part(act, x, in + i, ffn - i);
        ds_vec up = ds_load_part(act, x, in + ffn + i, ffn - i);

        ds_store_part(act, y, out + i, ffn - i, gate_of(by, gate).value * up * weight);
    }
}

static void swiglu_fwd_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_swiglu_fwd_args *a = arg;

    (void)thread;
    if (a->gate == DS_GATE_GELU)
        DS_TYPED(a->act, swiglu_fwd(T, DS_GATE_GELU, a->ffn, a->x, a->y, task, 1.0f));
    else
        DS_TYPED(a->act, swiglu_fwd(T, DS_GATE_SILU, a->ffn, a->x, a->y, task, 1.0f));
}

int DS_ISA(ds__cpu_swiglu_fwd)(const struct ds_swiglu_fwd_args *args, struct ds_stream *stream,
                               struct ds_error *err)
{
    struct ds_swiglu_fwd_args a = *args;
    const struct ds_largest_args largest = {
        .n = a.rows * a.ffn, .act = a.act, .x = a.y, .largest = a.largest};

    ds__cpu_run(stream, a.rows, swiglu_fwd_task, &a);
    return a.largest == NULL ? 0 : DS_ISA(ds__cpu_largest)(&largest, stream, err);
}

static void swiglu_rows_fwd_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_swiglu_rows_fwd_args *a = arg;
    const size_t pair = a->source[task];
    const float weight = pair < a->pairs ? a->weight[pair] : 0.0f;

    (void)thread;
    DS_TYPED(a->act, swiglu_fwd(T, DS_GATE_SILU, a->ffn, a->x, a->y, task, weight));
}

int DS_ISA(ds__cpu_swiglu_rows_fwd)(const struct ds_swiglu_rows_fwd_args *args,
                                    struct ds_stream *stream, struct ds_error *err)
{
    struct ds_swiglu_rows_fwd_args a = *args;

    (void)err;
    ds__cpu_run(stream, ds__min(*a.count, a.rows), swiglu_rows_fwd_task, &a);
    return 0;
}

struct swiglu_grad {
    ds_vec gate, up, weight;
};

DS_INLINE struct swiglu_grad swiglu_grad(enum ds_gate by, ds_vec gate, ds_vec up, ds_vec dy,
                                         float weight)
{
    struct gated g = gate_of(by, gate);
    ds_vec scaled = dy * weight;

    return (struct swiglu_grad){
        .gate = scaled * up * g.slope, .up = scaled * g.value, .weight = dy * (g.value * up)};
}

/* One row; the gradient of its weight. */
DS_INLINE float swiglu_bwd(enum ds_dtype act, enum ds_gate by, size_t ffn, const void *x,
                           const void *dy, void *dx, size_t row, float weight)
{
    size_t in = row * 2 * ffn, out = row * ffn, i = 0;
    ds_vec sum = {0};

    for (; i + DS_LANES <= ffn; i += DS_LANES) {
        struct swiglu_grad g =
            swiglu_grad(by, ds_load(act, x, in + i), ds_load(act, x, in + ffn + i),
                        ds_load(act, dy, out + i), weight);

        ds_store(act, dx, in + i, g.gate);
        ds_store(act, dx, in + ffn + i, g.up);
        sum += g.weight;
    }
    if (i < ffn) {
        size_t n = ffn - i;
        struct swiglu_grad g =
            swiglu_grad(by, ds_load_part(act, x, in + i, n), ds_load_part(act, x, in + ffn + i, n),
                        ds_load_part(act, dy, out + i, n), weight);

        ds_store_part(act, dx, in + i, n, g.gate);
        ds_store_part(act, dx, in + ffn + i, n, g.up);
        sum += g.weight;
    }
    return ds_vec_sum(sum);
}

static void swiglu_bwd_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_swiglu_bwd_args *a = arg;

    (void)thread;
    if (a->gate == DS_GATE_GELU)
        DS_TYPED(a->act, (void)swiglu_bwd(T, DS_GATE_GELU, a->ffn, a->x, a->dy, a->dx, task, 1.0f));
    else
        DS_TYPED(a->act, (void)swiglu_bwd(T, DS_GATE_SILU, a->ffn, a->x, a->dy, a->dx, task, 1.0f));
}

int DS_ISA(ds__cpu_swiglu_bwd)(const struct ds_swiglu_bwd_args *args, struct ds_stream *stream,
                               struct ds_error *err)
{
    struct ds_swiglu_bwd_args a = *args;
    const struct ds_largest_args largest = {
        .n = 2 * a.rows * a.ffn, .act = a.act, .x = a.dx, .largest = a.largest};

    ds__cpu_run(stream, a.rows, swiglu_bwd_task, &a);
    return a.largest == NULL ? 0 : DS_ISA(ds__cpu_largest)(&largest, stream, err);
}

static void swiglu_rows_bwd_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_swiglu_rows_bwd_args *a = arg;
    const size_t pair = a->source[task];
    const bool there = pair < a->pairs;
    float weight = there ? a->weight[pair] : 0.0f, dweight = 0.0f;

    (void)thread;
    DS_TYPED(a->act,
             dweight = swiglu_bwd(T, DS_GATE_SILU, a->ffn, a->x, a->dy, a->dx, task, weight));
    if (there)
        a->dweight[pair] = dweight;
}

int DS_ISA(ds__cpu_swiglu_rows_bwd)(const struct ds_swiglu_rows_bwd_args *args,
                                    struct ds_stream *stream, struct ds_error *err)
{
    struct ds_swiglu_rows_bwd_args a = *args;

    (void)err;
    ds__cpu_run(stream, ds__min(*a.count, a.rows), swiglu_rows_bwd_task, &a);
    return 0;
}

/* Angles of one position: exact at the start of a block of positions, then turned step by step in
 * double, so that no table of all positions is needed.  Blocks are those of positions, so that a
 * part of a sequence has the bits of the whole. */
struct rope {
    const struct ds_rope_args *a;
    size_t width; /* elements of a head that are turned */
    struct ds_rope_ramp ramp;
    char *scratch;
};

struct rope_angles {
    size_t pairs;
    double *cosine, *sine, *step_cosine, *step_sine; /* [pairs] each */
    float *c, *s;                                    /* the same, as used */
};

static struct rope_angles rope_start(const struct rope *r, unsigned thread, size_t position)
{
    size_t pairs = r->width / 2;
    double *d = (double *)(void *)(r->scratch + thread * ds__need_rope(1, r->width));
    struct rope_angles w = {
        pairs, d, d + pairs, d + 2 * pairs, d + 3 * pairs, (float *)(void *)(d + 4 * pairs), NULL};

    w.s = w.c + pairs;
    for (size_t i = 0; i < pairs; i++) {
        double exponent = -2.0 * (double)i / (double)r->width;
        double frequency = ds_rope_scaled(&r->a->scale, &r->ramp, r->a->each, i,
                                          pow((double)r->a->theta, exponent));

        sincos((double)position * frequency, &w.sine[i], &w.cosine[i]);
        sincos(frequency, &w.step_sine[i], &w.step_cosine[i]);
    }
    return w;
}

static void rope_take(struct rope_angles *w, double gain, bool inverse)
{
    for (size_t i = 0; i < w->pairs; i++) {
        w->c[i] = (float)(gain * w->cosine[i]);
        w->s[i] = (float)(inverse ? gain * -w->sine[i] : gain * w->sine[i]);
    }
}

static void rope_step(struct rope_angles *w)
{
    for (size_t i = 0; i < w->pairs; i++) {
        double c = w->cosine[i] * w->step_cosine[i] - w->sine[i] * w->step_sine[i];

        w->sine[i] = w->sine[i] * w->step_cosine[i] + w->cosine[i] * w->step_sine[i];
        w->cosine[i] = c;
    }
}

DS_INLINE void rope_head(const struct rope_angles *w, enum ds_dtype act, void *x, size_t at)
{
    size_t pairs = w->pairs, i = 0;

    for (; i + DS_LANES <= pairs; i += DS_LANES) {
        ds_vec c = ds_vec_load(w->c + i), s = ds_vec_load(w->s + i);
        ds_vec x0 = ds_load(act, x, at + i), x1 = ds_load(act, x, at + pairs + i);

        ds_store(act, x, at + i, x0 * c - x1 * s);
        ds_store(act, x, at + pairs + i, x1 * c + x0 * s);
    }
    if (i < pairs) {
        size_t n = pairs - i;
        ds_vec c = ds_load_part(DS_F32, w->c, i, n), s = ds_load_part(DS_F32, w->s, i, n);
        ds_vec x0 = ds_load_part(act, x, at + i, n), x1 = ds_load_part(act, x, at + pairs + i, n);

        ds_store_part(act, x, at + i, n, x0 * c - x1 * s);
        ds_store_part(act, x, at + pairs + i, n, x1 * c + x0 * s);
    }
}

static void rope_task(void *arg, size_t task, unsigned thread)
{
    const struct rope *r = arg;
    const struct ds_rope_args *a = r->a;
    size_t start = (a->first / ROPE_POSITIONS + task) * ROPE_POSITIONS;
    size_t begin = start > a->first ? start - a->first : 0;
    size_t end = ds__min(start + ROPE_POSITIONS - a->first, a->seq);
    struct rope_angles w = rope_start(r, thread, start);

    for (size_t position = start; position < a->first; position++)
        rope_step(&w);
    for (size_t t = begin; t < end; t++) {
        rope_take(&w, ds_rope_gain(&a->scale), a->inverse);
        for (size_t b = 0; b < a->batch; b++) {
            size_t row = (b * a->seq + t) * a->ld;

            for (size_t head = 0; head < a->heads; head++) {
                DS_TYPED(a->act, rope_head(&w, T, a->x, row + head * a->head_size));
            }
        }
        rope_step(&w);
    }
}

int DS_ISA(ds__cpu_rope)(const struct ds_rope_args *args, struct ds_stream *stream,
                         struct ds_error *err)
{
    const size_t width = ds_rope_width(args->turned, args->head_size);
    struct rope r = {
        .a = args, .width = width, .ramp = ds_rope_ramp(&args->scale, (double)args->theta, width)};
    int rc =
        ds__cpu_scratch(stream, ds__need_rope(ds__cpu_threads(stream), width), &r.scratch, err);

    if (rc != 0)
        return rc;
    ds__cpu_run(stream, ds__div_up(args->first % ROPE_POSITIONS + args->seq, ROPE_POSITIONS),
                rope_task, &r);
    return 0;
}

DS_INLINE void cast(enum ds_dtype from, enum ds_dtype to, const void *x, void *y, size_t i,
                    size_t end)
{
    for (; i + DS_LANES <= end; i += DS_LANES)
        ds_store(to, y, i, ds_load(from, x, i));
    if (i < end)
        ds_store_part(to, y, i, end - i, ds_load_part(from, x, i, end - i));
}

static void cast_task(void *arg, size_t task, unsigned thread)
{
    const struct ds_cast_args *a = arg;
    size_t begin = task * SPAN, end = ds__min(begin + SPAN, a->n);
    size_t bytes = ds_dtype_bytes(a->from);

    (void)thread;
    if (a->from == a->to)
        memmove((char *)a->y + begin * bytes, (const char *)a->x + begin * bytes,
                (end - begin) * bytes);
    else if (a->from == DS_F32)
        DS_TYPED(a->to, cast(DS_F32, T, a->x, a->y, begin, end));
    else if (a->to == DS_F32)
        DS_TYPED(a->from, cast(T, DS_F32, a->x, a->y, begin, end));
    else
        cast(a->from, a->to, a->x, a->y, begin, end);
}

int DS_ISA(ds__cpu_cast)(const struct ds_cast_args *args, struct ds_stream *stream,
                         struct ds_error *err)
{
    struct ds_cast_args a = *args;

    (void)err;
    ds__cpu_run(stream, ds__div_up(a.n, SPAN), cast_task, &a);
    return 0;
}

static void affine_task(void *arg, size_t row, unsigned thread)
{
    const struct ds_affine_args *a = arg;
    const float alpha = (float)a->alpha, *x = a->x + row * a->cols;
    float *y = a->y + row * a->cols;
    size_t i = 0;

    (void)thread;
    for (; i + DS_LANES <= a->cols; i += DS_LANES)
        ds_vec_store(y + i, alpha * ds_vec_load(x + i));
    for (; i < a->cols; i++)
        y[i] = alpha * x[i];
    if (row < a->cols)
        y[row] += (float)a->beta;
}

int DS_ISA(ds__cpu_affine)(const struct ds_affine_args *args, struct ds_stream *stream,
                           struct ds_error *err)
{
    struct ds_affine_args a = *args;

    (void)err;
    if (a.squares != NULL)
        a.alpha /= sqrt(*a.squares) + a.eps;
    ds__cpu_run(stream, a.cols == 0 ? 0 : a.rows, affine_task, &a);
    return 0;
}
