/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * memory.c - which activations there are, how long each lives, and where it lies.
 *
 * N tokens of a micro-batch pass through.  A layer keeps what its backward pass reads; what it
 * recomputes is written twice and lives for one instruction, then for two, so that all layers share
 * one place without anyone saying so.  Codes of FP8 are for one product at a time, in one place.
 * The classifier's logits, then their gradient, exist for one chunk of rows, in one place.  When
 * parameters are updated nothing of it is alive any more; Muon works there.
 *
 * In a pipeline other micro-batches pass before the backward pass of one comes: what that one keeps
 * for it lies in a slot, slot behind slot, and what lives in one half only behind all of them.
 * What is passed on lies in SWAPPED.
 *
 * Packing: largest first, each at the lowest place that no neighbour in time occupies.
 *
 * Tests   tests/plan/test_plan.c (no two live buffers overlap, over many shapes)
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "kernels/dtype.h"
#include "runtime/model/family.h"
#include "runtime/optim.h"
#include "runtime/plan/internal.h"

enum { LOGIT_CHUNK_BYTES = 64 << 20, LOGIT_ROW_UNIT = 16, LOGIT_LD_UNIT = 16, LAYER_BUFFERS = 20 };

/* Every chunk reads and writes the whole gradient of the classifier.  An H100 multiplies some 1000
 * rows in the time that this takes, so there are several times as many; of short logits, too, in
 * the room that F32 takes. */
enum { LOGIT_ROWS_APART = 2048 };

struct maker {
    struct ds_plan *plan;
    uint64_t act, tokens, hidden, qkv, ffn_in, ffn; /* bytes of an activation; widths */
    uint64_t ffn_rows; /* of the feed-forward block: tokens, or pairs of one and an expert here */
    uint64_t blocks;
    uint32_t first_layer, last_layer; /* of this rank */
    uint32_t turn;                    /* the first instruction of the backward half */
};

static void add(struct maker *maker, enum ds_buffer buffer, enum ds_pass pass, uint32_t block,
                uint64_t bytes, uint32_t first, uint32_t last)
{
    maker->plan->buffer[maker->plan->buffers++] = (struct ds_plan_buffer){
        .buffer = buffer,
        .pass = pass,
        .block = block,
        .bytes = ds__round_up(bytes, DS_BUFFER_ALIGN),
        .first = first,
        .last = last,
        .kept = maker->plan->slots > 1 && pass != DS_PASS_EVAL && first < maker->turn &&
                last >= maker->turn,
    };
}

/* A buffer of all layers, of which each has done with it when it has passed: never kept. */
static void add_common(struct maker *maker, enum ds_buffer buffer, enum ds_pass pass,
                       uint64_t bytes, uint32_t first, uint32_t last)
{
    add(maker, buffer, pass, 0, bytes, first, last);
    maker->plan->buffer[maker->plan->buffers - 1].kept = false;
}

/* Index of an instruction of the first micro-batch. */
static uint32_t find(const struct ds_program *program, enum ds_instr_op op, uint64_t block,
                     bool recompute)
{
    for (uint32_t i = 0; i < program->count; i++)
        if (program->instr[i].op == op && program->instr[i].block == block &&
            program->instr[i].recompute == recompute)
            return i;
    assert(false); /* the schedule has every block's instructions */
    return 0;
}

/* Of a SEND or RECV. */
static uint32_t find_pass(const struct ds_program *program, enum ds_instr_op op, bool gradient)
{
    uint32_t i = 0;

    while (program->instr[i].op != op || program->instr[i].gradient != gradient)
        i++;
    return i;
}

/* What of a layer's activations a pass has: all, what it keeps for its backward pass, or what it
 * drops and computes again. */
enum part { ALL, KEPT, DROPPED };

/* What the layer of `block` computes on its way, alive over instructions first .. last. */
static void add_layer(struct maker *maker, enum ds_pass pass, enum part part, uint32_t block,
                      uint32_t first, uint32_t last)
{
    const struct ds_plan *plan = maker->plan;
    uint64_t row = maker->tokens * maker->act, hidden = row * maker->hidden;
    uint64_t attended = row * plan->shape.heads * plan->shape.head_size;
    uint64_t stat = maker->tokens * 2 * sizeof(float);
    uint64_t heads = plan->shape.heads + plan->shape.kv_heads;
    const struct ds_family *family = ds_family_of(plan->shape.arch);
    bool before = ds_family_norms_before(family), behind = ds_family_norms_behind(family);
    bool normed = ds_arch_norms_heads(plan->shape.arch),
         rows = ds_arch_norms_rows(plan->shape.arch);
    const struct {
        enum ds_buffer buffer;
        uint64_t bytes;
    } table[] = {
        {DS_BUFFER_NORM1, before ? hidden : 0},
        {DS_BUFFER_STAT1, before ? stat : 0},
        {DS_BUFFER_RAW, normed || rows ? row * ds_model_qkv_width(&plan->shape) : 0},
        {DS_BUFFER_STATH, normed
                              ? (maker->tokens * heads + 2 * plan->shape.head_size) * sizeof(float)
                          : rows ? stat
                                 : 0},
        {DS_BUFFER_QKV, row * maker->qkv},
        {DS_BUFFER_ATTENTION, attended},
        {DS_BUFFER_ATTENDED, plan->sequence_ranks > 1 ? attended : 0},
        {DS_BUFFER_LSE, maker->tokens * plan->shape.heads * sizeof(float)},
        {DS_BUFFER_PROJ, behind ? hidden : 0},
        {DS_BUFFER_STATP, behind ? stat : 0},
        {DS_BUFFER_MIDDLE, hidden},
        {DS_BUFFER_ADAPTED, row * ds_model_adapted_width(&plan->shape)},
        {DS_BUFFER_NORM2, before ? hidden : 0},
        {DS_BUFFER_STAT2, before ? stat : 0},
        {DS_BUFFER_ROUTES, ds_plan_routes(plan).bytes},
        {DS_BUFFER_FFN_IN, maker->ffn_rows * maker->act * maker->ffn_in},
        {DS_BUFFER_FFN_ACT, maker->ffn_rows * maker->act * maker->ffn},
        {DS_BUFFER_DOWN, behind ? hidden : 0},
        {DS_BUFFER_STATD, behind ? stat : 0},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].bytes > 0 &&
            (part == ALL || ds_plan_drops(plan, block, table[i].buffer) == (part == DROPPED)))
            add(maker, table[i].buffer, pass, block, table[i].bytes, first, last);
}

/* Ids, targets and losses of a pass; normalised rows and logits of the head. */
static void add_ends(struct maker *maker, enum ds_pass pass, uint32_t first, uint32_t head,
                     uint32_t head_last, uint32_t embed_last)
{
    const struct ds_plan *plan = maker->plan;
    uint64_t tokens = maker->tokens, chunk = plan->logit_rows * plan->logit_ld;
    uint32_t block = (uint32_t)maker->blocks - 1;

    if (ds_plan_embeds(plan))
        add(maker, DS_BUFFER_IDS, pass, 0,
            plan->micro_batch * (plan->sequence + 1) * sizeof(int32_t), first, embed_last);
    if (!ds_plan_classifies(plan))
        return;
    add(maker, DS_BUFFER_TARGETS, pass, block, tokens * sizeof(int32_t), first, head);
    add(maker, DS_BUFFER_LOSSES, pass, block, tokens * sizeof(float), head, head);
    add(maker, DS_BUFFER_NORMF, pass, block, tokens * maker->hidden * maker->act, head, head_last);
    add(maker, DS_BUFFER_STATF, pass, block, tokens * 2 * sizeof(float), head, head_last);
    add(maker, DS_BUFFER_LOGITS, pass, block, chunk * maker->act, head, head);
    if (plan->tensor_ranks > 1)
        add(maker, DS_BUFFER_SAID, pass, block,
            plan->tensor_ranks * plan->logit_rows * sizeof(struct ds_xent_row), head, head);
}

/* The largest elements of all operands have a place of their own throughout: those of weights are
 * found by the first micro-batch. */
static void add_codes(struct maker *maker, enum ds_pass pass, uint32_t first, uint32_t last,
                      uint32_t end)
{
    const struct ds_model_shape *shape = &maker->plan->shape;

    add_common(maker, DS_BUFFER_CODES, pass,
               ds_model_fp8_bytes(shape, maker->tokens, pass == DS_PASS_TRAIN), first, last);
    add(maker, DS_BUFFER_LARGEST, pass, 0, ds_model_fp8_largest_bytes(shape), 0, end);
}

/* What comes from the ranks that share a sequence, in layers `first` to `last`. */
static void add_arrived(struct maker *maker, enum ds_pass pass, uint32_t first, uint32_t last)
{
    if (maker->plan->sequence_ranks > 1)
        add_common(maker, DS_BUFFER_ARRIVED, pass, maker->tokens * maker->qkv * maker->act, first,
                   last);
}

/* The first token that each sees, in whole sequences. */
static void add_low(struct maker *maker, enum ds_pass pass, uint32_t first, uint32_t last)
{
    const struct ds_plan *plan = maker->plan;

    if (ds_plan_sees_less(plan))
        add(maker, DS_BUFFER_LOW, pass, 0, ds_plan_lows(plan) * sizeof(uint32_t), first, last);
}

/* Rows sorted by expert, for one product at a time; and those of all ranks that divide experts. */
static void add_sorted(struct maker *maker, enum ds_pass pass, uint32_t first, uint32_t last)
{
    const struct ds_plan *plan = maker->plan;

    if (plan->shape.experts > 0)
        add_common(maker, DS_BUFFER_SORTED, pass, maker->ffn_rows * maker->hidden * maker->act,
                   first, last);
    if (plan->expert_ranks > 1)
        add_common(maker, DS_BUFFER_MET, pass, ds__plan_met_bytes(plan), first, last);
}

/* What adapters make of rows on its way, of one product: its sums, and that in the activations'
 * type; and what is left of what they read. */
static void add_adapting(struct maker *maker, enum ds_pass pass, uint32_t first, uint32_t last)
{
    const struct ds_model_shape *shape = &maker->plan->shape;
    uint64_t bytes = ds_model_adapting_bytes(shape, maker->tokens, maker->act);

    if (bytes > 0 && shape->lora.dropout > 0.0 && pass == DS_PASS_TRAIN)
        bytes += maker->tokens * ds_model_adapted_deepest(shape) * maker->act;
    if (bytes > 0)
        add_common(maker, DS_BUFFER_DADAPTED, pass, bytes, first, last);
}

/* Output of this rank's blocks, and what comes into the first of them from another part; not that
 * which is passed on.  `pass` of one instruction a block; it lives until the next block has done
 * with it, which before the first trained one is at once. */
static void add_outs(struct maker *maker, const struct ds_program *program, enum ds_pass pass,
                     enum ds_instr_op reader)
{
    const struct ds_plan *plan = maker->plan;
    uint32_t end = plan->end_block - 1; /* the head has none, another part's last block passes it */
    uint32_t block = ds_plan_embeds(plan) ? 0 : plan->first_block - 1;

    for (; block < end; block++) {
        uint32_t made = block < plan->first_block ? find_pass(program, DS_INSTR_RECV, false)
                                                  : find(program, DS_INSTR_FORWARD, block, false);
        enum ds_instr_op by = block + 1 < plan->first_trained ? DS_INSTR_FORWARD : reader;

        if (pass == DS_PASS_TRAIN && ds_plan_takes_turns(plan, block) &&
            block >= plan->stash_first + DS_STASH_PLACES)
            continue; /* it takes the place of another, until that is back */
        add(maker, DS_BUFFER_OUT, pass, block, maker->tokens * maker->hidden * maker->act, made,
            find(program, by, block + 1, false));
    }
}

/* The gradient of the stream, which comes from the head or from another part; what dropout, a
 * factor or a norm leaves of it can be wider than what a team's rank has of a layer. */
static void add_gradients(struct maker *maker, uint32_t layers_last, uint32_t last)
{
    uint64_t row = maker->tokens * maker->act;
    uint64_t wide = row * maker->qkv, ffn = maker->ffn_rows * maker->act * maker->ffn;
    uint64_t narrow = maker->plan->shape.heads * maker->plan->shape.head_size;

    if (maker->hidden > narrow) /* the stream's, or those of all heads */
        narrow = maker->hidden;
    if (ffn > wide)
        wide = ffn;
    if (row * maker->plan->shape.experts > wide) /* gradients of a router's logits */
        wide = row * maker->plan->shape.experts;
    if ((maker->plan->drops || maker->plan->shape.residual_scale > 0.0 ||
         ds_family_norms_behind(ds_family_of(maker->plan->shape.arch))) &&
        row * maker->hidden > wide)
        wide = row * maker->hidden;
    if (ds_plan_embeds(maker->plan))
        add(maker, DS_BUFFER_DSTREAM, DS_PASS_TRAIN, 0, row * maker->hidden, maker->turn, last);
    add(maker, DS_BUFFER_DNARROW, DS_PASS_TRAIN, 0, row * narrow, maker->turn + 1, layers_last);
    add(maker, DS_BUFFER_DWIDE, DS_PASS_TRAIN, 0, wide, maker->turn + 1, layers_last);
    if (maker->plan->shape.parallel_residual)
        add(maker, DS_BUFFER_DBESIDE, DS_PASS_TRAIN, 0, row * maker->hidden, maker->turn + 1,
            layers_last);
}

static void add_step(struct maker *maker)
{
    const struct ds_plan *plan = maker->plan;
    const struct ds_program *step = &plan->step;
    bool embeds = ds_plan_embeds(plan), classifies = ds_plan_classifies(plan);
    uint32_t head = (uint32_t)maker->blocks - 1;
    uint32_t layers_first = find(step, DS_INSTR_FORWARD, maker->first_layer, false);
    uint32_t layers_last = find(step, DS_INSTR_BACKWARD, maker->first_layer, false);
    uint32_t head_first = classifies ? find(step, DS_INSTR_FORWARD, head, false) : 0;
    uint32_t last =
        embeds ? find(step, DS_INSTR_BACKWARD, 0, false) : find_pass(step, DS_INSTR_SEND, true);

    maker->turn = classifies ? find(step, DS_INSTR_BACKWARD, head, false)
                             : find_pass(step, DS_INSTR_RECV, true);
    add_ends(maker, DS_PASS_TRAIN, 0, head_first, maker->turn, last);
    add_outs(maker, step, DS_PASS_TRAIN, DS_INSTR_BACKWARD);
    for (uint32_t block = maker->first_layer; block <= maker->last_layer; block++) {
        uint32_t forward = find(step, DS_INSTR_FORWARD, block, false);
        uint32_t backward = find(step, DS_INSTR_BACKWARD, block, false);

        if (block < plan->first_trained) /* no gradient comes here */
            backward = forward;
        add_layer(maker, DS_PASS_TRAIN, KEPT, block, forward, backward);
        if (!ds_plan_recomputes(plan, block))
            continue;
        add_layer(maker, DS_PASS_TRAIN, DROPPED, block, forward, forward);
        add_layer(maker, DS_PASS_RECOMPUTE, DROPPED, block,
                  find(step, DS_INSTR_FORWARD, block, true), backward);
    }
    add_gradients(maker, layers_last, last);
    add_low(maker, DS_PASS_TRAIN, 0, layers_last);
    add_arrived(maker, DS_PASS_TRAIN, layers_first, layers_last);
    add_sorted(maker, DS_PASS_TRAIN, layers_first, layers_last);
    add_adapting(maker, DS_PASS_TRAIN, layers_first, layers_last);
    if (plan->frozen_elems > 0) /* gradients of frozen vectors, which nobody reads */
        add_common(maker, DS_BUFFER_UNUSED, DS_PASS_TRAIN,
                   2 * (ds_model_normed_width(&plan->shape) + plan->shape.head_size) *
                       sizeof(float),
                   maker->turn, last);
    if (plan->fp8)
        add_codes(maker, DS_PASS_TRAIN, layers_first, layers_last, last);
}

static void add_eval(struct maker *maker)
{
    const struct ds_plan *plan = maker->plan;
    const struct ds_program *eval = &plan->eval;
    bool classifies = ds_plan_classifies(plan);
    uint32_t first = find(eval, DS_INSTR_FORWARD, plan->first_block, false);
    uint32_t head = classifies ? find(eval, DS_INSTR_FORWARD, maker->blocks - 1, false) : 0;
    uint32_t layers_first = find(eval, DS_INSTR_FORWARD, maker->first_layer, false);
    uint32_t layers_last = find(eval, DS_INSTR_FORWARD, maker->last_layer, false);

    add_ends(maker, DS_PASS_EVAL, 0, head, head, first);
    add_low(maker, DS_PASS_EVAL, first, layers_last);
    add_arrived(maker, DS_PASS_EVAL, layers_first, layers_last);
    add_sorted(maker, DS_PASS_EVAL, layers_first, layers_last);
    add_adapting(maker, DS_PASS_EVAL, layers_first, layers_last);
    if (plan->fp8)
        add_codes(maker, DS_PASS_EVAL, layers_first, layers_last, classifies ? head : layers_last);
    add_outs(maker, eval, DS_PASS_EVAL, DS_INSTR_FORWARD);
    for (uint32_t block = maker->first_layer; block <= maker->last_layer; block++) {
        uint32_t at = find(eval, DS_INSTR_FORWARD, block, false);

        add_layer(maker, DS_PASS_EVAL, ALL, block, at, at);
    }
}

/* For qsort_r: larger first, then as they stand, so that the result is the same everywhere. */
static int by_bytes(const void *a, const void *b, void *user)
{
    const struct ds_plan_buffer *buf = user;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;

    if (buf[i].bytes != buf[j].bytes)
        return buf[i].bytes > buf[j].bytes ? -1 : 1;
    return i < j ? -1 : i > j;
}

static bool live_together(const struct ds_plan_buffer *a, const struct ds_plan_buffer *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* placed[0 .. n) are indices of placed buffers, sorted by offset. */
static uint64_t lowest_gap(const struct ds_plan_buffer *buf, const uint32_t *placed, size_t n,
                           const struct ds_plan_buffer *wanted)
{
    uint64_t at = 0;

    for (size_t i = 0; i < n; i++) {
        const struct ds_plan_buffer *other = &buf[placed[i]];

        if (!live_together(wanted, other) || other->offset + other->bytes <= at)
            continue;
        if (other->offset >= at + wanted->bytes)
            break;
        at = other->offset + other->bytes;
    }
    return at;
}

uint64_t ds__plan_pack(struct ds_plan_buffer *buf, size_t n, uint32_t *order)
{
    uint64_t end = 0;

    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    qsort_r(order, n, sizeof(*order), by_bytes, buf);
    for (size_t i = 0; i < n; i++) { /* order[0 .. i) becomes sorted by offset */
        uint32_t index = order[i];
        size_t at = i;

        buf[index].offset = lowest_gap(buf, order, i, &buf[index]);
        if (buf[index].offset + buf[index].bytes > end)
            end = buf[index].offset + buf[index].bytes;
        for (; at > 0 && buf[order[at - 1]].offset > buf[index].offset; at--)
            order[at] = order[at - 1];
        order[at] = index;
    }
    return end;
}

static void choose_chunk(struct ds_plan *plan, uint64_t tokens, uint64_t act)
{
    uint64_t rows, chunks;

    plan->logit_ld = ds__round_up(plan->shape.vocab, LOGIT_LD_UNIT);
    rows = LOGIT_CHUNK_BYTES / (plan->logit_ld * act);
    if (rows < LOGIT_ROW_UNIT)
        rows = LOGIT_ROW_UNIT;
    if (plan->apart && rows < LOGIT_ROWS_APART * sizeof(float) / act)
        rows = LOGIT_ROWS_APART * sizeof(float) / act;
    chunks = (tokens + rows - 1) / rows;
    rows = ds__round_up((tokens + chunks - 1) / chunks, LOGIT_ROW_UNIT);
    plan->logit_rows = rows < tokens ? rows : tokens;
}

/* What the update of a whole matrix works in: nothing else is in the arena by then. */
static uint64_t update_bytes(const struct ds_plan *plan)
{
    uint64_t most = 0;

    for (size_t i = 0; i < plan->spans; i++) {
        const struct ds_plan_span *span = &plan->span[i];
        uint64_t elems =
            ds_optim_matrix_room(span->rows, span->cols) + ds_plan_matrix_parts(plan, span);

        most = elems > most ? elems : most;
    }
    return most * sizeof(float);
}

/* What is kept comes first; the others stay in order. */
static size_t kept_first(struct ds_plan *plan)
{
    size_t kept = 0;

    for (size_t i = 0; i < plan->buffers; i++) {
        struct ds_plan_buffer one = plan->buffer[i];

        if (!one.kept)
            continue;
        for (size_t k = i; k > kept; k--)
            plan->buffer[k] = plan->buffer[k - 1];
        plan->buffer[kept++] = one;
    }
    return kept;
}

/* Slots with what is kept, then the rest of a step; bytes of all. */
static uint64_t pack_step(struct ds_plan *plan, uint32_t *order)
{
    size_t kept = kept_first(plan);
    uint64_t slots, rest = ds__plan_pack(plan->buffer + kept, plan->buffers - kept, order);

    plan->slot_bytes = 0;
    for (size_t i = 0; i < kept; i++) {
        plan->buffer[i].offset = plan->slot_bytes;
        plan->slot_bytes += plan->buffer[i].bytes;
    }
    slots = plan->slots * plan->slot_bytes;
    for (size_t i = kept; i < plan->buffers; i++)
        plan->buffer[i].offset += slots;
    return slots + rest;
}

int ds__plan_memory(struct ds_plan *plan, struct ds_error *err)
{
    struct maker maker = {
        .plan = plan,
        .act = ds_dtype_bytes(ds_compute_dtype(plan->compute)),
        .tokens = plan->micro_batch * plan->sequence,
        .hidden = plan->shape.hidden,
        .qkv = ds_plan_swap_width(plan),
        .ffn_in = ds_model_ffn_in_width(&plan->shape),
        .ffn = plan->shape.ffn,
        .ffn_rows = ds_plan_sorted_rows(plan),
        .blocks = ds_model_blocks(&plan->shape),
        .first_layer = ds_plan_embeds(plan) ? 1 : plan->first_block,
        .last_layer = plan->end_block - (ds_plan_classifies(plan) ? 2 : 1),
    };
    size_t most = (size_t)maker.blocks * 3 * LAYER_BUFFERS + 32, in_step;
    uint32_t *order = ds_arena_alloc(&plan->arena, most, sizeof(*order));
    uint64_t step, eval;

    plan->buffer = ds_arena_alloc(&plan->arena, most, sizeof(*plan->buffer));
    if (order == NULL || plan->buffer == NULL)
        return ds_fail(err, ENOMEM, "no memory for a plan of %llu layers",
                       (unsigned long long)plan->shape.layers);
    choose_chunk(plan, maker.tokens, maker.act);
    add_step(&maker);
    in_step = plan->buffers;
    step = pack_step(plan, order);
    add_eval(&maker);
    assert(plan->buffers <= most);
    eval = ds__plan_pack(plan->buffer + in_step, plan->buffers - in_step, order);
    plan->arena_bytes[DS_ARENA_ACTIVATIONS] = step > eval ? step : eval;
    if (update_bytes(plan) > plan->arena_bytes[DS_ARENA_ACTIVATIONS])
        plan->arena_bytes[DS_ARENA_ACTIVATIONS] = update_bytes(plan);
    return 0;
}
