/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_join.c - any bytes as what tells a host where to go: the payload of READY and GO, and the
 * invitation that an agent of Slurm reads.
 *
 * Beyond "no crash": what is accepted is written again as the same bytes.
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "launcher/gather.h"
#include "launcher/remote/join.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_meeting_point(const uint8_t *data, size_t size)
{
    unsigned char again[DS_GATHER_BYTES];
    struct ds_error err = {0};
    struct ds_gather gather;

    if (ds_gather_read(&gather, data, size, &err) != 0) {
        assert(err.code == EPROTO && err.text[0] != '\0');
        return;
    }
    assert(ds_gather_write(&gather, again) == size && memcmp(again, data, size) == 0);
    (void)ds_gather_is_loopback(gather.address);
}

static void try_invitation(const char *line)
{
    char again[DS_INVITATION_BYTES];
    struct ds_invitation invitation = {0}, second = {0};
    struct ds_error err = {0};

    if (ds_invitation_read(&invitation, line, &err) != 0) {
        assert(err.code == EPROTO && err.text[0] != '\0');
        return;
    }
    assert(invitation.port >= 1 && invitation.port <= 65535);
    ds_invitation_write(&invitation, again);
    again[strcspn(again, "\n")] = '\0';
    assert(ds_invitation_read(&second, again, &err) == 0 && second.port == invitation.port);
    assert(memcmp(second.key, invitation.key, sizeof(second.key)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = calloc(size + 1, 1), here[DS_MAX_HOST_NAME + 1];

    if (text == NULL)
        return 0;
    memcpy(text, data, size);
    try_meeting_point(data, size);
    try_invitation(text);
    ds_gather_here(text, here);
    free(text);
    return 0;
}
