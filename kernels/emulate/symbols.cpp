// Owns: the names of functions, read from the symbol table of the file that holds them.
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "engine.hpp"

namespace emulate {
namespace {

/// The file that holds the address, and the address less where the file was loaded.
struct Home {
  std::string file;
  std::uintptr_t offset = 0;
};

int look(dl_phdr_info* info, std::size_t, void* data) {
  auto& [address, home] = *static_cast<std::pair<std::uintptr_t, Home>*>(data);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    const std::uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    if (segment.p_type != PT_LOAD || address < begin || address >= begin + segment.p_memsz) continue;
    home = {*info->dlpi_name ? info->dlpi_name : "/proc/self/exe", address - info->dlpi_addr};
    return 1;
  }
  return 0;
}

template <class T>
bool read(std::ifstream& in, std::uint64_t at, T* to, std::size_t count) {
  return bool(in.seekg(static_cast<std::streamoff>(at))
                  .read(reinterpret_cast<char*>(to), static_cast<std::streamsize>(count * sizeof(T))));
}

std::string symbol(const Home& home) {
  std::ifstream in(home.file, std::ios::binary);
  ElfW(Ehdr) header{};
  if (!read(in, 0, &header, 1) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return {};
  std::vector<ElfW(Shdr)> sections(header.e_shnum);
  if (!read(in, header.e_shoff, sections.data(), sections.size())) return {};
  for (const auto& section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    std::vector<ElfW(Sym)> symbols(section.sh_size / sizeof(ElfW(Sym)));
    std::vector<char> names(sections[section.sh_link].sh_size + 1, '\0');
    if (!read(in, section.sh_offset, symbols.data(), symbols.size()) ||
        !read(in, sections[section.sh_link].sh_offset, names.data(), names.size() - 1))
      return {};
    for (const auto& entry : symbols)
      if (entry.st_value == home.offset && (entry.st_info & 0xF) == STT_FUNC && entry.st_name < names.size())
        return &names[entry.st_name];
  }
  return {};
}

}  // namespace

void describe_function(const void* function, char* text, std::size_t size) {
  std::pair<std::uintptr_t, Home> found{reinterpret_cast<std::uintptr_t>(function), {}};
  dl_iterate_phdr(&look, &found);
  const std::string mangled = found.second.file.empty() ? std::string() : symbol(found.second);
  if (mangled.empty()) {
    std::snprintf(text, size, "at %p", function);
    return;
  }
  int status = 0;
  char* plain = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  std::snprintf(text, size, "%s", plain ? plain : mangled.c_str());
  std::free(plain);
}

}  // namespace emulate
