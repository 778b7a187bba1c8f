/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * relay.h - SEND, RECV and TIE: what ranks with other parameters have for each other.
 *
 * In a pipeline a rank meets its likes of the part before and of the part behind in groups of two.
 * It gives from where its blocks leave the stream and its gradient, and takes to where they read
 * them; so nothing is copied but by the collective.  All of it is on the stream that computes.
 *
 * Tests   tests/engine/test_pipeline.c, test_team.c
 */
#ifndef DS_RUNTIME_RELAY_H
#define DS_RUNTIME_RELAY_H

#include "runtime/exchange.h"
#include "runtime/model/net.h"

/* A SEND, with the RECV behind it where the two are paired, or a RECV, which is done then.  Turns
 * the net to the slot of what it moves. */
int ds_relay_pass(struct ds_exchange *exchange, struct ds_net *net, const struct ds_instr *instr,
                  enum ds_pass pass, struct ds_error *err) DS_NODISCARD;

/* Add up, after they were summed over ranks, the gradient of the matrix that both ends have, and
 * those of keys and values that several of a team have. */
int ds_relay_tie(struct ds_exchange *exchange, size_t bucket, struct ds_stream *stream,
                 struct ds_error *err) DS_NODISCARD;

#endif
