/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * verdict.h - what a step came to, and what becomes of it: numbers of each rank, one verdict.
 *
 * Written once for backends and host, in doubles that both round alike, so that it does not matter
 * who decides.  Ranks are added along the tree of runtime/comm/tree.h.
 *
 * Source  the rule of the loss scale: runtime/scaler.h
 * Tests   tests/kernels/test_verdict.c, tests/plan/test_scaler.c
 */
#ifndef DS_KERNELS_VERDICT_H
#define DS_KERNELS_VERDICT_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/anywhere.h"

#define DS_NOWHERE UINT64_MAX

/* Where gradients are that are not finite: the least place of each kind, or DS_NOWHERE. */
enum { DS_PLACES = 2 };

/* What ds_sumsq() makes of some gradients. */
struct ds_part {
    double squares;
    uint64_t nonfinite, place;
};

/* What a step came to on one rank.  Plain data that ranks send to each other. */
struct ds_entry {
    double squares, loss, nonfinite;
    double peaks; /* of experts: sum of ds_load_peak() */
    uint64_t place[DS_PLACES];
    uint64_t hash; /* of the plan */
    uint32_t stop, writing, differs, zero;
};

/* The loss scale of fp16 after a step, and how it goes on (runtime/scaler.h). */
struct ds_scale {
    double factor;
    uint64_t iteration, hysteresis;
    int64_t last_overflow; /* iteration, -1: none yet */
};
struct ds_scale_rule {
    bool dynamic; /* else the factor stays */
    double least;
    uint64_t window, hysteresis;
};

/* Of a step, on all ranks: its tokens, and those of them that are trained on as targets. */
struct ds_step_size {
    double tokens, targets;
};

/* What losses are multiplied by before the backward pass: the loss scale / tokens for what every
 * token has, and the loss scale / targets.  Where all tokens are targets they are the same bits. */
enum ds_loss_factor { DS_FACTOR_TOKEN, DS_FACTOR_TARGET, DS_LOSS_FACTORS };

/* In the memory of the device that updates. */
struct ds_verdict {
    uint32_t skip;          /* no update: not all is finite, nothing a target, or plans differ */
    uint32_t behind;        /* the step before was skipped */
    float grad_scale;       /* by which gradients are multiplied: clipping, loss scale */
    float loss_factor;      /* of the next step: loss scale / tokens */
    double grad_norm, loss; /* before clipping and without the scale, or NaN; of a target */
    struct ds_scale scale;  /* after the step */
    struct ds_entry all;    /* of all ranks */
};

/* false: gradients overflow and the factor cannot fall any further. */
DS_ANYWHERE bool ds_scale_next(struct ds_scale *s, const struct ds_scale_rule *rule, bool overflow)
{
    int64_t calm = (int64_t)s->iteration - s->last_overflow - 1;
    bool least = rule->dynamic && overflow && s->hysteresis <= 1 && s->factor <= rule->least;

    if (rule->dynamic && overflow) {
        s->last_overflow = (int64_t)s->iteration;
        if (s->hysteresis > 1)
            s->hysteresis--;
        else
            s->factor = fmax(s->factor / 2.0, rule->least);
    } else if (rule->dynamic && calm > 0 && (uint64_t)calm % rule->window == 0) {
        s->factor *= 2.0;
        s->hysteresis = rule->hysteresis;
    }
    s->iteration++;
    return !least;
}

DS_ANYWHERE void ds_entry_take(struct ds_entry *to, const struct ds_part *part, int kind)
{
    to->squares += part->squares;
    to->nonfinite += (double)part->nonfinite;
    to->place[kind] = part->place < to->place[kind] ? part->place : to->place[kind];
}

/* *to += *from, which holds later ranks. */
DS_ANYWHERE void ds_entry_add(struct ds_entry *to, const struct ds_entry *from)
{
    to->squares += from->squares;
    to->loss += from->loss;
    to->peaks += from->peaks;
    to->nonfinite += from->nonfinite;
    for (int i = 0; i < DS_PLACES; i++)
        to->place[i] = from->place[i] < to->place[i] ? from->place[i] : to->place[i];
    to->stop |= from->stop;
    to->writing |= from->writing;
    to->differs |= from->differs | (uint32_t)(from->hash != to->hash);
}

/* As PyTorch's clip_grad_norm_(): clip / (norm + 1e-6), never more than 1; 0 clips nothing. */
DS_ANYWHERE double ds_clip_scale(double norm, double clip)
{
    double scale = clip / (norm + 1e-6);

    return clip > 0.0 && scale < 1.0 ? scale : 1.0;
}

/* LAMB's, of the squares of a tensor and of its direction. */
DS_ANYWHERE double ds_trust_ratio(double p_squares, double u_squares)
{
    return p_squares > 0.0 && u_squares > 0.0 ? sqrt(p_squares) / sqrt(u_squares) : 1.0;
}

/* `all` ranks' step, whose losses were multiplied by `before->scale.factor` / targets.  One without
 * targets has no loss: it is skipped, and is no overflow. */
DS_ANYWHERE void ds_verdict_make(struct ds_verdict *v, const struct ds_entry *all,
                                 const struct ds_verdict *before, const struct ds_step_size *size,
                                 double clip, const struct ds_scale_rule *rule)
{
    double factor = before->scale.factor, norm = sqrt(all->squares) / factor;
    bool bad;

    v->all = *all;
    v->loss = size->targets > 0.0 ? all->loss / size->targets : 0.0;
    bad = all->nonfinite > 0.0 || !isfinite(v->loss) || all->differs;
    v->skip = bad || !(size->targets > 0.0);
    v->behind = before->skip;
    v->grad_scale = (float)(ds_clip_scale(norm, clip) / factor);
    v->grad_norm = bad ? (double)NAN : norm;
    v->scale = before->scale;
    (void)ds_scale_next(&v->scale, rule, bad);
    v->loss_factor = (float)(v->scale.factor / size->tokens);
}

#endif
