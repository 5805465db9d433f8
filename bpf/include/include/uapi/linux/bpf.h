/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * bcc has read its own copy of linux/bpf.h by now, the one that fits its helpers.h.
 */
#pragma once
