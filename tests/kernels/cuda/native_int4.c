/* Shows that the code of the GPUs that have INT4 tensor instructions uses them in a loop: reads the machine code out of
 * libsqf_cuda, without tools of the toolkit. On other GPUs the assembler puts INT8 instructions in their place, which
 * no result betrays.
 * usage: native_int4 LIBRARY
 *
 * A library holds one ELF file for each GPU (machine 190; bits 8 to 15 of its flags are the architecture), with a
 * section .text.KERNEL for each kernel. Since Volta an instruction has 128 bits: an opcode in the low 12 and, for
 * branches, the distance from the next instruction in bits 32 to 63. IMMA.16864.S4.S4 is opcode 0x237 with 0x7854 in
 * bits 72 to 87, as cuobjdump shows. */
#include <elf.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MACHINE_CUDA = 190, BRANCH = 0x947, IMMA = 0x237, S4_S4 = 0x7854, S8_S8 = 0x405c };

typedef struct totals {
    unsigned architectures[256]; /* kernels with INT4 instructions in loops */
    bool seen[256];
} totals;

static uint64_t word_at(const uint8_t *code, size_t offset)
{
    uint64_t word;
    memcpy(&word, code + offset, sizeof word);
    return word;
}

static bool is_imma(const uint8_t *code, size_t at, unsigned types)
{
    return (word_at(code, at) & 0xfff) == IMMA && (word_at(code, at + 8) >> 8 & 0xffff) == types;
}

/* Instructions between the target of a branch that leads back and the branch. */
static size_t in_loops(const uint8_t *code, size_t bytes, unsigned types)
{
    uint8_t *looped = calloc(bytes / 16 + 1, 1);
    size_t count = 0;
    for (size_t at = 0; looped && at + 16 <= bytes; at += 16) {
        const uint64_t word = word_at(code, at);
        const int64_t target = (int64_t)at + 16 + (int32_t)(word >> 32);
        if ((word & 0xfff) == BRANCH && target >= 0 && target < (int64_t)at) {
            memset(looped + target / 16, 1, at / 16 - (size_t)target / 16 + 1);
        }
    }
    for (size_t at = 0; looped && at + 16 <= bytes; at += 16) {
        count += looped[at / 16] && is_imma(code, at, types);
    }
    free(looped);
    return count;
}

static void read_kernels(const uint8_t *file, size_t room, totals *all)
{
    Elf64_Ehdr header;
    memcpy(&header, file, sizeof header);
    const unsigned arch = header.e_flags >> 8 & 0xff;
    if (header.e_shoff > room || header.e_shnum * sizeof(Elf64_Shdr) > room - header.e_shoff) {
        return;
    }
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(const void *)(file + header.e_shoff);
    const char *names = (const char *)file + sections[header.e_shstrndx].sh_offset;
    all->seen[arch] = true;
    for (unsigned i = 0; i < header.e_shnum; i++) {
        const char *name = names + sections[i].sh_name;
        if (strncmp(name, ".text.", 6) != 0 || sections[i].sh_offset + sections[i].sh_size > room) {
            continue;
        }
        const uint8_t *code = file + sections[i].sh_offset;
        const size_t int4 = in_loops(code, sections[i].sh_size, S4_S4);
        const size_t int8 = in_loops(code, sections[i].sh_size, S8_S8);
        if (int4 > 0) {
            printf("sm_%u %s: in loops %zu INT4 and %zu INT8 tensor instructions\n", arch, name + 6, int4, int8);
            all->architectures[arch]++;
        }
    }
}

static uint8_t *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    if (file && fseek(file, 0, SEEK_END) == 0) {
        *bytes = (size_t)ftell(file);
        rewind(file);
        data = malloc(*bytes + sizeof(Elf64_Ehdr));
        if (data && fread(data, 1, *bytes, file) != *bytes) {
            free(data);
            data = NULL;
        }
    }
    if (file) {
        fclose(file);
    }
    return data;
}

int main(int argc, char **argv)
{
    static totals all;
    size_t bytes = 0;
    uint8_t *data = argc == 2 ? read_file(argv[1], &bytes) : NULL;
    if (!data) {
        printf("native_int4: %s is not there\n", argc == 2 ? argv[1] : "LIBRARY");
        return 77;
    }
    /* Files in a library are aligned to 8. */
    for (size_t at = 8; at + sizeof(Elf64_Ehdr) <= bytes; at += 8) {
        Elf64_Ehdr header;
        memcpy(&header, data + at, sizeof header);
        if (memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_machine == MACHINE_CUDA) {
            read_kernels(data + at, bytes - at, &all);
        }
    }
    free(data);
    int status = 0;
    static const unsigned wanted[] = {80, 86, 89};
    for (size_t i = 0; i < 3; i++) {
        if (all.architectures[wanted[i]] == 0) {
            printf("native_int4: no kernel for sm_%u has INT4 tensor instructions in a loop%s\n", wanted[i],
                   all.seen[wanted[i]] ? "" : ": there is no code for it");
            status = 1;
        }
    }
    return status;
}
