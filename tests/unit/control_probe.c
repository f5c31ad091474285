/* native/control.c on frames from a file, each in memory of exactly its size, where a sanitizer watches every byte.
 *
 *   control_probe FRAMES     FRAMES: size (uint16_t), then so many bytes, until the end
 *
 * A line for each: "-", or operation, number, family, type and the answer in hexadecimal.
 */
#include "control.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void tell(const struct control_request *request)
{
	uint8_t *frame = malloc(CONTROL_FRAME);

	if (!frame)
		exit(71);
	size_t size = control_answer(frame, request, request->op == CONTROL_SOCKET ? 24 : 0);
	printf("%d %" PRIu64 " %" PRIu64 " %" PRIu64 " ", (int)request->op, request->number, request->family, request->type);
	for (size_t i = 0; i < size; i++)
		printf("%02x", frame[i]);
	putchar('\n');
	free(frame);
}

int main(int argc, char **argv)
{
	FILE *frames = argc == 2 ? fopen(argv[1], "rb") : NULL;
	uint16_t size;

	if (!frames)
		return 64;
	while (fread(&size, sizeof size, 1, frames) == 1) {
		uint8_t *bytes = malloc(size ? size : 1);
		struct control_request request;
		if (!bytes || fread(bytes, 1, size, frames) != size)
			return 65;
		if (control_parse(bytes, size, &request))
			tell(&request);
		else
			puts("-");
		free(bytes);
	}
	return fclose(frames) == 0 ? 0 : 74;
}
