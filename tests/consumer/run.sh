#!/usr/bin/env bash
# run.sh SOURCE CMAKE GENERATOR CXX: configures, builds and runs the consumer outside of the tree, in each way to use meft.
set -euo pipefail
source=$1 cmake=$2 generator=$3 cxx=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$source/tests/consumer" "$work/project"

quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log"; echo "consumer: failed: $*"; exit 1; }; }

use() {  # use NAME OPTION...: builds the consumer and compares what it prints
  local name=$1 printed
  shift
  quietly "$cmake" -S "$work/project" -B "$work/$name" -G "$generator" -DCMAKE_CXX_COMPILER="$cxx" "$@"
  quietly "$cmake" --build "$work/$name"
  printed=$("$work/$name/consumer")
  [ "$printed" = "2 4 6 8" ] || { echo "consumer: $name: printed '$printed', expected '2 4 6 8'"; exit 1; }
  echo "consumer: $name: $printed"
}

refuse() {  # refuse WORDS OPTION...: the consumer is not configured, and WORDS say why
  local words=$1 said
  shift
  if said=$("$cmake" -S "$work/project" -B "$work/refused" -G "$generator" -DCMAKE_CXX_COMPILER="$cxx" "$@" 2>&1) ||
    [[ "$(tr -s ' \n' ' ' <<<"$said")" != *"$words"* ]]; then
    echo "$said"
    echo "consumer: expected a refusal with: $words"
    exit 1
  fi
  rm -rf "$work/refused"
}

quietly "$cmake" -S "$source" -B "$work/meft" -G "$generator" -DCMAKE_CXX_COMPILER="$cxx" \
  -DMEFT_TESTS=OFF -DMEFT_BENCH=OFF -DMEFT_EXAMPLES=OFF -DCMAKE_INSTALL_PREFIX="$work/prefix"
quietly "$cmake" --install "$work/meft"
quietly "$cmake" -DCMAKE_INSTALL_INCLUDEDIR=headers/of/meft "$work/meft"
quietly "$cmake" --install "$work/meft" --prefix "$work/elsewhere"

# A package whose headers have a folder of their own is used as well. The core must do without the dependencies of meft::models, and that without those of meft::images.
images=(-DCMAKE_DISABLE_FIND_PACKAGE_JPEG=ON -DCMAKE_DISABLE_FIND_PACKAGE_PNG=ON)
core=(-DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON -DCMAKE_DISABLE_FIND_PACKAGE_utf8proc=ON "${images[@]}")
use installed -DBY=find_package -DCMAKE_PREFIX_PATH="$work/prefix" "${core[@]}"
use installed_models -DBY=find_package -DCMAKE_PREFIX_PATH="$work/prefix" -DCOMPONENTS=models "${images[@]}"
use installed_images -DBY=find_package -DCMAKE_PREFIX_PATH="$work/elsewhere" -DCOMPONENTS='models;images'
use subdirectory -DBY=add_subdirectory -DMEFT_SOURCE="$source" -DCOMPONENTS='models;images'
use fetched -DBY=fetch_content -DMEFT_SOURCE="$source" "${core[@]}"
refuse "meft::models needs what was not found: nlohmann_json::nlohmann_json" -DBY=find_package \
  -DCMAKE_PREFIX_PATH="$work/prefix" -DCOMPONENTS=models -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON
refuse "meft has no component sound" -DBY=find_package -DCMAKE_PREFIX_PATH="$work/prefix" -DCOMPONENTS=sound
