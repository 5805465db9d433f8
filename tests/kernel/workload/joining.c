/* SPDX-License-Identifier: Apache-2.0
 *
 * Statements that may say, in a comment, which trace they belong to; and a call that waits within for the test.
 */
#define _GNU_SOURCE /* getline */
#include "workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

PROBED long execute(const char *statement) { return leaf(strlen(statement)) + leaf(0); }

/* The next n lines of the input, each an execute with two leaf inside, `times` times. */
void run_statements(long n, long times)
{
    char *line = 0;
    size_t room = 0;
    for (long i = 0; i < n; i++) {
        ssize_t length = getline(&line, &room, stdin);
        if (length <= 0) break;
        line[length - 1] = 0;
        for (long j = 0; j < (times ? times : 1); j++) execute(line);
    }
    free(line);
}

PROBED long request(void)
{
    leaf(1);
    puts(", \"within\": 1}");
    fflush(stdout);
    getchar();
    printf("{\"command\": \"request\"");
    leaf(2);
    return 0;
}

/* One request, within which the test may look around: it goes on when it reads a character. */
void run_request(long unused, long also_unused) { request(); }
