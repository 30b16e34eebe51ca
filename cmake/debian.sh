# Sourced by scripts of a fresh Debian machine.

# install_missing PACKAGE...: installs those that are not there, by sudo where that takes root.
install_missing() {
  local package missing=() root=(env DEBIAN_FRONTEND=noninteractive)
  for package; do
    [[ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" == *"ok installed" ]] || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then return; fi
  echo "Installing ${missing[*]}"
  if ((EUID != 0)); then root=(sudo "${root[@]}"); fi
  "${root[@]}" apt-get update -qq
  "${root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
