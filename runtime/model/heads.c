/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * heads.c - rows of a layer from a rank's tokens to its heads, and back.
 *
 * R ranks share B sequences of T tokens.  Each has N = B T / R tokens, T / R of every sequence, and
 * rows of all heads of them; the attention wants rows of 1 / R of the heads for all tokens:
 *
 *     [B, T/R, w]  ->  laid out by rank  [R, B, T/R, w/R]  ->  swapped  ->  [B, R, T/R, w/R]
 *
 * A row is w wide and made of parts (queries, keys, values), of each of which a rank has its heads,
 * one behind the other.  The way back is the same from right to left.  Where B is 1 what arrives
 * lies as the attention wants it.
 *
 * Of fewer than R key/value heads each goes to R / heads ranks, one behind the other.  On the way
 * back their gradients of it are added up, in the order of ranks and in F32, and rounded once.
 *
 * Source  Jacobs et al., "DeepSpeed Ulysses: System Optimizations for Enabling Training of Extreme
 *         Long Sequence Transformer Models" (2023)
 * Tests   tests/engine/test_sharers.c
 */
#include "kernels/probe.h"
#include "runtime/model/net.h"

enum { PARTS = 3 };

struct swap {
    const struct ds_net *net;
    size_t ranks, elem; /* bytes of an element */
    size_t width;       /* elements of a row with the heads of one rank */
    size_t part[PARTS]; /* of them, those of each part; 0: there is none */
    size_t whole;       /* elements of a row with all heads */
    size_t repeats;     /* ranks that have the same keys and values */
};

static struct swap swap_of(const struct ds_net *net, enum ds_swap_rows rows)
{
    const struct ds_model_shape *shape = &net->shape;
    struct swap swap = {.net = net, .ranks = ds__sharers(net), .elem = ds_dtype_bytes(net->act)};

    swap.part[0] = shape->heads * shape->head_size / swap.ranks;
    if (rows == DS_SWAP_QKV)
        swap.part[1] = swap.part[2] = ds__kv_heads(net) * shape->head_size;
    swap.width = swap.part[0] + swap.part[1] + swap.part[2];
    swap.repeats = swap.ranks * ds__kv_heads(net) / shape->kv_heads;
    swap.whole =
        swap.ranks * swap.part[0] + swap.ranks / swap.repeats * (swap.part[1] + swap.part[2]);
    return swap;
}

/* The order of `args`, or the one that takes it back. */
static int reorder(const struct swap *swap, struct ds_reorder_args args, bool back,
                   struct ds_error *err)
{
    const struct ds_reorder_args turned = {.outer = args.outer,
                                           .inner = args.inner,
                                           .run = args.run,
                                           .from_outer = args.to_outer,
                                           .from_inner = args.to_inner,
                                           .to_outer = args.from_outer,
                                           .to_inner = args.from_inner,
                                           .from = args.from,
                                           .to = args.to};

    return ds_reorder(back ? &turned : &args, swap->net->stream, err);
}

/* Part `i` between rows of all heads and rows of each rank's heads, rank after rank; of ranks with
 * the same heads that of number `turn`. */
static int part_by_rank(const struct swap *swap, unsigned i, size_t turn, bool back,
                        const void *from, void *to, struct ds_error *err)
{
    const size_t elem = swap->elem, rank = swap->net->tokens * swap->width;
    const size_t repeats = i > 0 ? swap->repeats : 1, ranks = swap->ranks / repeats;
    const size_t before = i > 0 ? swap->part[0] : 0, kv = i > 1 ? swap->part[1] : 0;
    const size_t whole = (before * swap->ranks + kv * ranks) * elem;
    const size_t apart = (turn * rank + before + kv) * elem;
    const struct ds_reorder_args args = {
        .outer = ranks,
        .inner = swap->net->tokens,
        .run = swap->part[i] * elem,
        .from_outer = swap->part[i] * elem,
        .from_inner = swap->whole * elem,
        .to_outer = repeats * rank * elem,
        .to_inner = swap->width * elem,
        .from = (const unsigned char *)from + (back ? apart : whole),
        .to = (unsigned char *)to + (back ? whole : apart),
    };

    return reorder(swap, args, back, err);
}

/* All parts, to each rank. */
static int to_ranks(const struct swap *swap, const void *from, void *to, struct ds_error *err)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < PARTS && swap->part[i] > 0; i++)
        for (size_t turn = 0; rc == 0 && turn < (i > 0 ? swap->repeats : 1); turn++)
            rc = part_by_rank(swap, i, turn, false, from, to, err);
    return rc;
}

/* What the ranks of each turn have of keys and values, one behind the other for each head, to rows
 * of `room`, turn after turn. */
static int by_turn(const struct swap *swap, const void *from, void *room, struct ds_error *err)
{
    const size_t elem = swap->elem, tokens = swap->net->tokens, run = 2 * swap->part[1];
    const size_t heads = swap->ranks / swap->repeats, rank = tokens * swap->width;
    int rc = 0;

    for (size_t turn = 0; rc == 0 && turn < swap->repeats; turn++) {
        const struct ds_reorder_args args = {
            .outer = heads,
            .inner = tokens,
            .run = run * elem,
            .from_outer = swap->repeats * rank * elem,
            .from_inner = swap->width * elem,
            .to_outer = run * elem,
            .to_inner = heads * run * elem,
            .from = (const unsigned char *)from + (turn * rank + swap->part[0]) * elem,
            .to = (unsigned char *)room + turn * tokens * heads * run * elem,
        };

        rc = reorder(swap, args, false, err);
    }
    return rc;
}

/* Sums of what ranks with the same keys and values have made of these, into rows of all heads; in
 * the room that has been given away, which is larger than what is summed and a sum. */
static int add_up(const struct swap *swap, const void *from, void *to, struct ds_error *err)
{
    const size_t elem = swap->elem, tokens = swap->net->tokens, run = swap->part[1];
    const size_t heads = swap->ranks / swap->repeats, channels = heads * 2 * run;
    unsigned char *room = swap->net->swapped;
    unsigned char *sums = room + swap->repeats * tokens * channels * elem;
    const struct ds_rows_sum_args sum = {.rows = tokens,
                                         .each = swap->repeats,
                                         .channels = channels,
                                         .act = swap->net->act,
                                         .x = room,
                                         .y = sums};
    int rc = by_turn(swap, from, room, err);

    if (rc == 0)
        rc = ds_rows_sum(&sum, swap->net->stream, err);
    for (size_t i = 0; rc == 0 && i < 2; i++) {
        const size_t at = swap->part[0] * swap->ranks + i * heads * run;
        const struct ds_reorder_args args = {
            .outer = heads,
            .inner = tokens,
            .run = run * elem,
            .from_outer = 2 * run * elem,
            .from_inner = channels * elem,
            .to_outer = run * elem,
            .to_inner = swap->whole * elem,
            .from = sums + i * run * elem,
            .to = (unsigned char *)to + at * elem,
        };

        rc = reorder(swap, args, false, err);
    }
    return rc;
}

/* All parts, from each rank. */
static int from_ranks(const struct swap *swap, const void *from, void *to, struct ds_error *err)
{
    const unsigned parts = swap->repeats > 1 ? 1 : PARTS;
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < parts && swap->part[i] > 0; i++)
        rc = part_by_rank(swap, i, 0, true, from, to, err);
    return rc == 0 && parts == 1 && swap->part[1] > 0 ? add_up(swap, from, to, err) : rc;
}

/* Between the parts of sequences rank after rank and whole sequences, one after the other. */
static int by_sequence(const struct swap *swap, bool back, const void *from, void *to,
                       struct ds_error *err)
{
    const size_t batch = swap->net->batch, run = swap->net->seq * swap->width * swap->elem;
    const struct ds_reorder_args args = {
        .outer = swap->ranks,
        .inner = batch,
        .run = run,
        .from_outer = batch * run,
        .from_inner = run,
        .to_outer = run,
        .to_inner = swap->ranks * run,
        .from = from,
        .to = to,
    };

    return reorder(swap, args, back, err);
}

/* From the room that all see to `to`. */
static int trade(const struct swap *swap, void *to, struct ds_error *err)
{
    const struct ds_net *net = swap->net;
    size_t bytes = net->tokens * swap->ranks * swap->width * swap->elem, at;
    int rc = ds__probe_begin(net->stream, &at, err);

    ds_comm_use_stream(net->sharers, net->stream);
    if (rc == 0)
        rc = ds_comm_all_to_all(net->sharers, net->swapped, to, bytes, err);
    return rc == 0 ? ds__probe_end_bytes(net->stream, at, "all_to_all", 2 * bytes, err) : rc;
}

int ds__to_heads(const struct ds_net *net, enum ds_pass pass, enum ds_swap_rows rows,
                 const void *from, void *to, struct ds_error *err)
{
    struct swap swap = swap_of(net, rows);
    void *arrived = net->batch == 1 ? to : net->block[0].buf[pass][DS_BUFFER_ARRIVED];
    int rc = to_ranks(&swap, from, net->swapped, err);

    if (rc == 0)
        rc = trade(&swap, arrived, err);
    return rc != 0 || arrived == to ? rc : by_sequence(&swap, false, arrived, to, err);
}

int ds__to_tokens(const struct ds_net *net, enum ds_pass pass, enum ds_swap_rows rows,
                  const void *from, void *to, struct ds_error *err)
{
    struct swap swap = swap_of(net, rows);
    void *arrived = net->block[0].buf[pass][DS_BUFFER_ARRIVED];
    int rc = by_sequence(&swap, true, from, net->swapped, err);

    if (rc == 0)
        rc = trade(&swap, arrived, err);
    return rc != 0 ? rc : from_ranks(&swap, arrived, to, err);
}
