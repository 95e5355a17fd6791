/* A mock of NVIDIA's management library, driven by the text file "<this library>.script" that is read at each
 * call: lines "key=value". It stands in for a GPU that the test machine does not have; names, structures and
 * return codes are those of NVIDIA's nvml.h (2 = invalid argument, 3 = not supported, 15 = GPU is lost, ...).
 *
 *   nvmlInit_v2=18            any function: return this code instead of working
 *   count=1  bus0=0000:01:00.0  name0=...  total0=... reserved0=... free0=... used0=...
 *   temperature0=61  limit1.0=97 (threshold 1 of card 0)  processes0=pid:bytes,pid:bytes
 *
 * Compiled with -DOLD_DRIVER it lacks the functions that old drivers lack. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int ret;
typedef struct { long index; } card;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
} process;
typedef struct {
  char legacy[16];
  unsigned domain, bus, device, id, subsystem;
  char bus_id[32];
} pci;

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
static card cards[8] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};

static int lookup(const char *key, char *out, size_t room) {
  Dl_info self;
  char path[4096], line[1024];
  int found = 0;
  if (!dladdr((void *)lookup, &self)) return 0;
  snprintf(path, sizeof path, "%s.script", self.dli_fname);
  FILE *script = fopen(path, "r");
  if (!script) return 0;
  size_t length = strlen(key);
  while (fgets(line, sizeof line, script)) {
    line[strcspn(line, "\n")] = 0;
    if (!strncmp(line, key, length) && line[length] == '=') {
      snprintf(out, room, "%s", line + length + 1);
      found = 1;
    }
  }
  fclose(script);
  return found;
}

static int number(const char *key, unsigned long long *out) {
  char text[64];
  if (!lookup(key, text, sizeof text)) return 0;
  *out = strtoull(text, NULL, 10);
  return 1;
}

static int number_of(const char *key, long index, unsigned long long *out) {
  char full[64];
  snprintf(full, sizeof full, "%s%ld", key, index);
  return number(full, out);
}

#define SCRIPTED                                            \
  do {                                                      \
    unsigned long long code;                                \
    if (number(__func__, &code)) return (ret)code;          \
  } while (0)

/* A value of a card, or "not supported" when the script has none. */
#define VALUE(key, device, type, out)                                    \
  do {                                                                   \
    unsigned long long value;                                            \
    SCRIPTED;                                                            \
    if (!number_of(key, ((card *)device)->index, &value)) return UNSUPPORTED; \
    *out = (type)value;                                                  \
    return OK;                                                           \
  } while (0)

ret nvmlInit_v2(void) { SCRIPTED; return OK; }
ret nvmlShutdown(void) { SCRIPTED; return OK; }
ret nvmlSystemGetDriverVersion(char *out, unsigned room) {
  SCRIPTED;
  if (!lookup("driver", out, room)) return UNSUPPORTED;
  return OK;
}
ret nvmlDeviceGetCount_v2(unsigned *out) {
  unsigned long long count = 0;
  SCRIPTED;
  number("count", &count);
  *out = (unsigned)count;
  return OK;
}
ret nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
  unsigned long long count = 0;
  SCRIPTED;
  number("count", &count);
  if (index >= count || index >= 8) return INVALID;
  *out = &cards[index];
  return OK;
}
ret nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **out) {
  unsigned long long count = 0;
  SCRIPTED;
  number("count", &count);
  for (long i = 0; i < (long)count && i < 8; i++) {
    char key[16], text[64];
    snprintf(key, sizeof key, "bus%ld", i);
    if (lookup(key, text, sizeof text) && !strcmp(text, bus)) {
      *out = &cards[i];
      return OK;
    }
  }
  return NOT_FOUND;
}
ret nvmlDeviceGetPciInfo_v3(void *device, pci *out) {
  char key[16], text[64];
  SCRIPTED;
  memset(out, 0, sizeof *out);
  snprintf(key, sizeof key, "bus%ld", ((card *)device)->index);
  if (!lookup(key, text, sizeof text)) return UNSUPPORTED;
  /* As NVML writes it: eight digits of domain. */
  snprintf(out->bus_id, sizeof out->bus_id, "0000%.24s", text);
  return OK;
}
ret nvmlDeviceGetName(void *device, char *out, unsigned room) {
  char key[16];
  SCRIPTED;
  snprintf(key, sizeof key, "name%ld", ((card *)device)->index);
  return lookup(key, out, room) ? OK : UNSUPPORTED;
}
ret nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2 *out) {
  long i = ((card *)device)->index;
  SCRIPTED;
  int all = number_of("total", i, &out->total) & number_of("reserved", i, &out->reserved) &
            number_of("free", i, &out->free) & number_of("used", i, &out->used);
  return all ? OK : UNSUPPORTED;
}
ret nvmlDeviceGetUtilizationRates(void *device, utilization *out) {
  unsigned long long gpu, memory;
  long i = ((card *)device)->index;
  SCRIPTED;
  if (!number_of("busy", i, &gpu) || !number_of("memory_busy", i, &memory)) return UNSUPPORTED;
  out->gpu = (unsigned)gpu;
  out->memory = (unsigned)memory;
  return OK;
}
ret nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *out) {
  (void)sensor;
  VALUE("temperature", device, unsigned, out);
}
ret nvmlDeviceGetTemperatureThreshold(void *device, unsigned which, unsigned *out) {
  char key[32];
  snprintf(key, sizeof key, "limit%u.", which);
  VALUE(key, device, unsigned, out);
}
ret nvmlDeviceGetPowerUsage(void *device, unsigned *out) { VALUE("power", device, unsigned, out); }
ret nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *out) { VALUE("power_cap", device, unsigned, out); }
ret nvmlDeviceGetFanSpeed_v2(void *device, unsigned fan, unsigned *out) {
  (void)fan;
  VALUE("fan", device, unsigned, out);
}
ret nvmlDeviceGetPerformanceState(void *device, unsigned *out) { VALUE("pstate", device, unsigned, out); }
ret nvmlDeviceGetClockInfo(void *device, unsigned which, unsigned *out) {
  char key[32];
  snprintf(key, sizeof key, "clock%u.", which);
  VALUE(key, device, unsigned, out);
}
#ifndef OLD_DRIVER
ret nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *out) {
  VALUE("energy", device, unsigned long long, out);
}
ret nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *out) {
  VALUE("throttle", device, unsigned long long, out);
}
#endif

static ret list(const char *name, void *device, unsigned *count, process *out) {
  char key[32], text[1024];
  unsigned n = 0;
  snprintf(key, sizeof key, "%s%ld", name, ((card *)device)->index);
  if (!lookup(key, text, sizeof text)) return UNSUPPORTED;
  for (char *at = text; *at; at++) n += *at == ':';
  if (n == 0) {
    *count = 0;
    return OK;
  }
  if (!out || *count < n) {
    *count = n;
    return TOO_SMALL;
  }
  n = 0;
  for (char *entry = strtok(text, ","); entry; entry = strtok(NULL, ",")) {
    memset(&out[n], 0, sizeof out[n]);
    out[n].pid = (unsigned)strtoul(entry, &entry, 10);
    out[n].used = strtoull(entry + 1, NULL, 10);
    n++;
  }
  *count = n;
  return OK;
}
ret nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process *out) {
  SCRIPTED;
  return list("processes", device, count, out);
}
ret nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, process *out) {
  SCRIPTED;
  return list("graphics", device, count, out);
}
