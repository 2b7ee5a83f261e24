/*
 * Lets CRIU read the limits of processes of other users on a machine that gives root no CAP_SYS_RESOURCE (some
 * containers and virtual machines): the kernel then refuses prlimit(2) on them, but shows the same numbers to
 * everybody in /proc/PID/limits. Preloaded into CRIU by scripts/install-criu; does nothing where prlimit(2) works.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/types.h>

/* Each line begins with the limit's name in 25 columns and a space; they stand in the order of their numbers. */
#define NAME_COLUMNS 26

static rlim_t number(const char *text)
{
	return strncmp(text, "unlimited", 9) == 0 ? RLIM_INFINITY : strtoul(text, NULL, 10);
}

static int read_limit(pid_t pid, int resource, struct rlimit *limit)
{
	char path[64], line[256], soft[32], hard[32];
	int at = -1, found = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/limits", (int)pid);
	file = fopen(path, "re");
	if (!file)
		return -1;
	while (!found && fgets(line, sizeof(line), file)) {
		if (at++ != resource)
			continue;
		found = strlen(line) > NAME_COLUMNS && sscanf(line + NAME_COLUMNS, "%31s %31s", soft, hard) == 2;
		break;
	}
	fclose(file);
	if (!found) {
		errno = EPERM;
		return -1;
	}
	limit->rlim_cur = number(soft);
	limit->rlim_max = number(hard);
	return 0;
}

long syscall(long nr, ...)
{
	static long (*next)(long, ...);
	long a[6], result;
	va_list list;

	va_start(list, nr);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(list, long);
	va_end(list);
	if (!next)
		*(void **)&next = dlsym(RTLD_NEXT, "syscall");
	result = next(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (nr == SYS_prlimit64 && result == -1 && errno == EPERM && !a[2] && a[3])
		return read_limit((pid_t)a[0], (int)a[1], (struct rlimit *)a[3]);
	return result;
}
