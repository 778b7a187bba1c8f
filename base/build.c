/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * build.c - the contract is in build.h.
 *
 * Compiled twice: for the programs with the hash, and for the library, which tests link, without,
 * so that a change of any source does not link every test anew.
 */
#include "base/build.h"

#ifdef DS_BUILD_ID
const char ds_build_id[] = DS_BUILD_ID;
#else
__attribute__((weak)) const char ds_build_id[] = DS_VERSION;
#endif
