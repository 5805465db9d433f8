/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * bcc's helpers.h includes this for roundup_pow_of_two, which only stack traces use: none here.
 */
#pragma once
