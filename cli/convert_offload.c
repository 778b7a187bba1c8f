/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * convert_offload.c - what goes to the host's memory or to a disk; the contract is in convert.h.
 */
#include <string.h>
#include <strings.h>

#include "base/limits.h"
#include "base/yaml.h"
#include "cli/convert.h"

/* Where states go on a disk: the folder as YAML has it. */
static int convert_nvme(struct ds_convert *c, struct ds_error *err)
{
    const char *device = DS_CONVERT_ZERO "offload_optimizer.device",
               *path = DS_CONVERT_ZERO "offload_optimizer.nvme_path";
    const char *folder, *optimizer;
    struct ds_buf quoted;
    int rc = ds__convert_text(c, path, "", &folder, err);

    if (rc == 0)
        rc = ds__convert_text(c, "optimizer.type", "", &optimizer, err);
    if (rc != 0)
        return rc;
    if (folder[0] == '\0')
        return ds__convert_note(c, DS_NOTE_WITHOUT, device, err,
                                "it says no nvme_path, and states stay on the device; set "
                                "offload.optim: nvme with offload.path");
    if (strcasecmp(optimizer, "lamb") == 0 || strcasecmp(optimizer, "onebitlamb") == 0) {
        rc = ds__convert_set(c, "offload.optim", device, err, "cpu");
        return rc != 0 ? rc
                       : ds__convert_note(c, DS_NOTE_CHANGED, device, err,
                                          "lamb would read its states twice a step; they are in "
                                          "the host's memory");
    }
    ds_buf_init(&quoted, DS_MAX_YAML_BYTES);
    rc = ds_yaml_quote(folder, &quoted);
    if (rc == 0)
        rc = ds__convert_set(c, "offload.optim", device, err, "nvme");
    if (rc == 0)
        rc = ds__convert_set(c, "offload.path", path, err, "%s", ds_buf_text(&quoted));
    ds_buf_release(&quoted);
    return rc;
}

static int convert_states(struct ds_convert *c, struct ds_error *err)
{
    const char *device, *path = DS_CONVERT_ZERO "offload_optimizer.device";
    double ratio;
    bool old;
    int rc = ds__convert_text(c, path, "none", &device, err);

    if (rc == 0)
        rc = ds__convert_bool(c, DS_CONVERT_ZERO "cpu_offload", false, &old, err);
    if (rc == 0)
        rc = ds__convert_f64(c, DS_CONVERT_ZERO "offload_optimizer.ratio", 1.0, &ratio, err);
    if (rc != 0)
        return rc;
    if (strcmp(device, "nvme") == 0)
        rc = convert_nvme(c, err);
    else if (strcmp(device, "cpu") == 0 || old)
        rc = ds__convert_set(c, "offload.optim", old ? DS_CONVERT_ZERO "cpu_offload" : path, err,
                             "cpu");
    else if (strcmp(device, "none") != 0)
        rc = ds__convert_note(c, DS_NOTE_WITHOUT, path, err,
                              "nothing goes to '%.20s', and states stay on the device; "
                              "offload.optim: cpu keeps them in the host's memory",
                              device);
    if (rc == 0 && ratio < 1.0)
        rc = ds__convert_note(c, DS_NOTE_CHANGED, DS_CONVERT_ZERO "offload_optimizer.ratio", err,
                              "all of the optimizer's states go where offload.optim says");
    return rc;
}

/* Parameters come from the host as stage 3 gathers them; those of FP32 are the optimizer's own. */
static int convert_params(struct ds_convert *c, uint64_t stage, struct ds_error *err)
{
    const char *path = DS_CONVERT_ZERO "offload_param.device", *device;
    bool old, older;
    int rc = ds__convert_text(c, path, "none", &device, err);

    if (rc == 0)
        rc = ds__convert_bool(c, DS_CONVERT_ZERO "cpu_offload_params", false, &old, err);
    if (rc == 0)
        rc = ds__convert_bool(c, DS_CONVERT_ZERO "cpu_offload_param", false, &older, err);
    if (rc != 0 || (strcmp(device, "none") == 0 && !old && !older))
        return rc;
    if (old || older)
        path = old ? DS_CONVERT_ZERO "cpu_offload_params" : DS_CONVERT_ZERO "cpu_offload_param";
    if (stage != 3)
        return ds__convert_note(c, DS_NOTE_WITHOUT, path, err,
                                "parameters come from the host at zero.stage: 3 alone");
    if (c->job.precision.compute == DS_COMPUTE_FP32 && c->job.offload.optim == DS_OFFLOAD_NONE)
        return ds__convert_note(
            c, DS_NOTE_WITHOUT, path, err,
            "parameters of fp32 are the optimizer's own; set offload.optim: cpu "
            "and offload.params: cpu");
    rc = ds__convert_set(c, "offload.params", path, err, "cpu");
    if (rc == 0 && strcmp(device, "nvme") == 0)
        rc = ds__convert_note(c, DS_NOTE_CHANGED, path, err,
                              "parameters are in the host's memory, not on a disk");
    return rc;
}

int ds__convert_offload(struct ds_convert *c, uint64_t stage, struct ds_error *err)
{
    int rc = convert_states(c, err);

    return rc == 0 ? convert_params(c, stage, err) : rc;
}
