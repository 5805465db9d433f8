/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * For socket filters. bcc's helpers.h includes it; probes look at no packet.
 */
#pragma once
