/* endless: never comes back from messages that say "loop" or "recurse", and acknowledges all others.
 * The host stops it; the server and the other plugins go on. */
#define CPI_MAIN
#include "cpi.h"

static volatile uint32_t turns;

__attribute__((noinline)) static uint32_t down(uint32_t n) { return n == 0xffffffff ? 0 : down(n + 1) + turns; }

CPI_EXPORT(cpi_on_batch) int32_t cpi_on_batch(uint8_t *inbox, uint32_t len, uint32_t count) {
  cpi_msg *m = (cpi_msg *)inbox;
  for (uint32_t i = 0; i < count; i++, m = cpi_next(m)) {
    if (m->data_len == 4 && cpi_data(m)[0] == 'l')
      for (;;) turns++;
    if (m->data_len == 7 && cpi_data(m)[0] == 'r') turns = down(turns);
  }
  return 0;
}
