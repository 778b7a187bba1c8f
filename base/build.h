/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * build.h - what the programs of one build have in common, and no others.
 *
 * The version, and in dsrun, dsrun-agent and dsrun-worker a hash of sources and flags after it, as
 * the Makefile says.  At most DS_WIRE_BUILD_BYTES: it travels in HELLO.
 */
#ifndef DS_BASE_BUILD_H
#define DS_BASE_BUILD_H

extern const char ds_build_id[];

#endif
