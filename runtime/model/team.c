/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * team.c - what the ranks that share layers tell each other in the middle of a pass.
 *
 * Sums are of the type that activations have, and their bits are the same on all of a team, so that
 * what each computes of them is, too: norms, their gradients and those of biases need no word.
 *
 * Of a row of logits a rank has some columns, and says of them the largest, the sum of their
 * exponentials, and the target's if it is there (kernels/op.h).  From what all have said each
 * works out the loss and the gradient of its columns.
 *
 * Tests   tests/engine/test_team.c
 */
#include "kernels/probe.h"
#include "runtime/model/net.h"

static int sum(const struct ds_net *net, void *x, size_t n, struct ds_error *err)
{
    if (net->act == DS_F32)
        return ds_comm_all_reduce_f32(net->team, x, n, err);
    if (net->act == DS_BF16)
        return ds_comm_all_reduce_bf16(net->team, x, n, err);
    return ds_comm_all_reduce_f16(net->team, x, n, err);
}

int ds__team_sum(const struct ds_net *net, void *x, struct ds_error *err)
{
    const size_t n = net->tokens * net->shape.hidden;
    size_t at;
    int rc;

    if (!ds__shares_layers(net))
        return 0;
    rc = ds__probe_begin(net->stream, &at, err);
    ds_comm_use_stream(net->team, net->stream);
    if (rc == 0)
        rc = sum(net, x, n, err);
    return rc == 0 ? ds__probe_end_bytes(net->stream, at, "all_reduce",
                                         2 * n * ds_dtype_bytes(net->act), err)
                   : rc;
}

int ds__team_add_up(const struct ds_net *net, float *x, size_t n, struct ds_error *err)
{
    size_t at;
    int rc = ds__probe_begin(net->stream, &at, err);

    ds_comm_use_stream(net->team, net->stream);
    if (rc == 0)
        rc = ds_comm_all_reduce_f32(net->team, x, n, err);
    return rc == 0 ? ds__probe_end_bytes(net->stream, at, "all_reduce", 2 * n * sizeof(*x), err)
                   : rc;
}

int ds__team_said(const struct ds_net *net, enum ds_pass pass, struct ds_xent_part_args args,
                  struct ds_error *err)
{
    struct ds_xent_row *said = net->block[net->shape.layers + 1].buf[pass][DS_BUFFER_SAID];
    const size_t bytes = net->plan->tensor_ranks * args.rows * sizeof(*said);
    size_t at;
    int rc;

    args.out = said + net->plan->tensor_rank * args.rows;
    rc = ds_xent_part(&args, net->stream, err);
    if (rc == 0)
        rc = ds__probe_begin(net->stream, &at, err);
    ds_comm_use_stream(net->team, net->stream);
    if (rc == 0)
        rc = ds_comm_all_gather(net->team, said, bytes, err);
    return rc == 0 ? ds__probe_end_bytes(net->stream, at, "all_gather", bytes, err) : rc;
}
