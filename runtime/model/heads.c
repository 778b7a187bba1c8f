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
};

static struct swap swap_of(const struct ds_net *net, enum ds_swap_rows rows)
{
    const struct ds_model_shape *shape = &net->shape;
    struct swap swap = {.net = net, .ranks = ds__sharers(net), .elem = ds_dtype_bytes(net->act)};

    swap.part[0] = shape->heads * shape->head_size / swap.ranks;
    if (rows == DS_SWAP_QKV)
        swap.part[1] = swap.part[2] = shape->kv_heads * shape->head_size / swap.ranks;
    swap.width = swap.part[0] + swap.part[1] + swap.part[2];
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

/* Between rows of all heads and rows of each rank's heads, rank after rank. */
static int by_rank(const struct swap *swap, bool back, const void *from, void *to,
                   struct ds_error *err)
{
    const size_t elem = swap->elem, tokens = swap->net->tokens, row = swap->ranks * swap->width;
    size_t at = 0; /* of the part in a row of one rank */
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < PARTS && swap->part[i] > 0; i++) {
        const size_t whole = at * swap->ranks * elem, apart = at * elem;
        const struct ds_reorder_args args = {
            .outer = swap->ranks,
            .inner = tokens,
            .run = swap->part[i] * elem,
            .from_outer = swap->part[i] * elem,
            .from_inner = row * elem,
            .to_outer = tokens * swap->width * elem,
            .to_inner = swap->width * elem,
            .from = (const unsigned char *)from + (back ? apart : whole),
            .to = (unsigned char *)to + (back ? whole : apart),
        };

        rc = reorder(swap, args, back, err);
        at += swap->part[i];
    }
    return rc;
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
    int rc = by_rank(&swap, false, from, net->swapped, err);

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
    return rc != 0 ? rc : by_rank(&swap, true, arrived, to, err);
}
