/* The floor of an online read: a C client that asks Redis for the same keys and copies the values into one matrix.

   mget SOCKET PREFIX-HEX KEYS WIDTH BATCH: KEYS is a file of big-endian 8-byte keys, WIDTH the bytes of a value. Reads from
   its input how many calls to time, and answers with the median and the first decile in microseconds, until end of input.
   The commands are packed before anything is timed. */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double microseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

int main(int count, char **words) {
  if (count != 6) return 2;
  redisContext *redis = redisConnectUnix(words[1]);
  if (!redis || redis->err) return 3;
  size_t lead = strlen(words[2]) / 2, width = atol(words[4]), batch = atol(words[5]), size = lead + 8;
  char prefix[64];
  for (size_t i = 0; i < lead; i++) {
    unsigned byte;
    sscanf(words[2] + 2 * i, "%2x", &byte);
    prefix[i] = (char)byte;
  }
  FILE *file = fopen(words[3], "rb");
  if (!file) return 4;
  fseek(file, 0, SEEK_END);
  size_t known = ftell(file) / 8;
  rewind(file);
  char *keys = malloc(known * size);
  for (size_t i = 0; i < known; i++) {
    memcpy(keys + i * size, prefix, lead);
    if (fread(keys + i * size + lead, 8, 1, file) != 1) return 4;
  }
  size_t rotation = 64;
  char **commands = calloc(rotation, sizeof *commands);
  long long *lengths = calloc(rotation, sizeof *lengths);
  const char **argv = malloc((batch + 1) * sizeof *argv);
  size_t *argl = malloc((batch + 1) * sizeof *argl);
  for (size_t r = 0; r < rotation; r++) {
    argv[0] = "MGET";
    argl[0] = 4;
    for (size_t i = 0; i < batch; i++) {
      argv[i + 1] = keys + ((r * batch + i) % known) * size;
      argl[i + 1] = size;
    }
    lengths[r] = redisFormatCommandArgv(&commands[r], batch + 1, argv, argl);
  }
  char *matrix = malloc(batch * width);
  double *took = NULL;
  for (long calls; scanf("%ld", &calls) == 1;) {
    took = realloc(took, calls * sizeof *took);
    for (long c = 0; c < calls; c++) {
      double before = microseconds();
      redisReply *reply;
      redisAppendFormattedCommand(redis, commands[c % rotation], lengths[c % rotation]);
      if (redisGetReply(redis, (void **)&reply) != REDIS_OK || reply->type != REDIS_REPLY_ARRAY) return 5;
      for (size_t i = 0; i < batch; i++) {
        if (reply->element[i]->len != width) return 6;
        memcpy(matrix + i * width, reply->element[i]->str, width);
      }
      freeReplyObject(reply);
      took[c] = microseconds() - before;
    }
    qsort(took, calls, sizeof *took, by_value);
    printf("%.3f %.3f\n", took[calls / 2], took[calls / 10]);
    fflush(stdout);
  }
  return 0;
}
