#!/usr/bin/env bash
# Builds the images of the small application that the stories are about, and of the services that it needs: PostgreSQL
# and Redis from Debian's packages, Python from there too, the wheels of requirements.txt. Nothing is installed on the
# machine, and there is no container engine.
#
#   tests/cluster/apps/build.sh
#
# Prints the path of one archive with all images, and nothing else, on standard output:
#   migration-gate.test/postgres:15, migration-gate.test/redis:7, for each line of `releases`
#   migration-gate.test/piefed:<tag>, and migration-gate.test/piefed-old:1.0.0, which migrates in its entrypoint
set -euo pipefail
export LC_ALL=C

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$here/../../..
say() { echo "cluster applications: $*" >&2; }
die() {
    say "$*"
    exit 1
}

# What changes rarely and takes long (packages and wheels) has a cache of its own.
hash() { sha256sum | cut -c1-16; }
release=$(. /etc/os-release 2>/dev/null && echo "${ID-} ${VERSION_ID-}") || release=
roots_key=$({ echo "$release $(uname -m)" && cat "$here"/{build.sh,requirements.txt}; } | hash)
images_key=$({
    echo "$roots_key"
    cat "$repository/build/oci-archive.sh" "$here/releases"
    cd "$here" && find piefed services ../../../examples/piefed/image -type f ! -path '*/__pycache__/*' -print0 | sort -z |
        xargs -0 sha256sum
} | hash)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/migration-gate
roots=$cache/roots-$roots_key
archive=$cache/applications-$images_key.tar
if [ -e "$archive" ]; then
    echo "$archive"
    exit
fi

mkdir -p "$cache"
exec 9>"$cache/applications.lock"
flock -n 9 || { say "another run is building them; waiting for it" && flock 9; }
work=$(mktemp -d "$cache/building.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Unpacks packages and the libraries that they need into a folder. apt is told that nothing is installed, so it names
# all of them; what only a whole system needs (dpkg, Perl, PostgreSQL's compiler for queries) stays out.
debian() { # FOLDER PACKAGE...
    local folder=$1 debs=$work/debs file name
    shift
    mkdir -p "$folder" "$debs/partial"
    : >"$work/no-packages"
    fetch() {
        apt-get -qq -y --no-install-recommends --download-only -o Debug::NoLocking=1 -o APT::Sandbox::User= \
            -o Dir::State::status="$work/no-packages" -o Dir::Cache::archives="$debs" install "$@" >&2
    }
    # The package lists of a fresh machine are absent or stale.
    fetch "$@" 2>/dev/null || { apt-get -qq update >&2 && fetch "$@"; } || die "apt-get could not fetch $*"
    for file in "$debs"/*.deb; do
        name=${file##*/} name=${name%%_*}
        case " $* " in *" $name "*) ;; *)
            case $name in
            libllvm* | libz3* | *perl*) continue ;;
            lib* | python3* | zlib1g | tzdata) ;;
            *) continue ;;
            esac
            ;;
        esac
        dpkg-deb --fsys-tarfile "$file" | tar --extract --directory "$folder" --no-same-owner --keep-directory-symlink \
            --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
            --exclude='./usr/share/lintian/*' --exclude='*/llvmjit*' --exclude='*/bitcode' --exclude='*/gconv'
    done
    rm -rf "$debs"
    # A shell for scripts and for `kubectl exec`.
    mkdir -p "$folder"/{bin,tmp,etc}
    for name in sh cat sleep dirname id mkdir; do ln -sf busybox "$folder/bin/$name"; done
    chmod 1777 "$folder/tmp"
    printf 'root:x:0:0::/:/bin/sh\nservice:x:999:999::/tmp:/bin/sh\n' >"$folder/etc/passwd"
    printf 'root:x:0:\nservice:x:999:\n' >"$folder/etc/group"
}

# The Python of a root, run where it lies: the machine's own may be another.
python_of() { # FOLDER ARGUMENT...
    local folder=$1 loader
    shift
    loader=$(find "$folder"/lib* -name 'ld-linux-*.so*' | head -n 1)
    PYTHONHOME=$folder/usr "$loader" --library-path "$(echo "$folder"/{,usr/}lib/*-linux-gnu | tr ' ' :)" \
        "$folder/usr/bin/python3" "$@"
}

# Compiled ahead, or each start of a container would do it again. The archive bears no times, so the check that a
# source is still the one that was compiled goes too.
compile() { # FOLDER-OF-PYTHON ROOT FOLDER
    python_of "$1" -m compileall -qq -j 0 --invalidation-mode unchecked-hash -s "$2" -p / "$3" || true
}

if [ ! -e "$roots" ]; then
    for program in apt-get dpkg-deb; do
        command -v "$program" >/dev/null || die "$program is needed to unpack Debian's packages, and isn't here"
    done
    say "unpacking PostgreSQL, Redis, Python and its packages (about a minute, once)"
    started=$SECONDS
    debian "$work/roots/postgres" postgresql-15 postgresql-client-15 tzdata busybox-static
    debian "$work/roots/redis" redis-server redis-tools busybox-static
    debian "$work/roots/python" python3 busybox-static

    python=$work/roots/python
    version=$(python_of "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    pip=(python3 -m pip)
    if ! "${pip[@]}" --version >/dev/null 2>&1; then
        debian "$work/pip" python3-pip
        pip=(python_of "$work/pip" -m pip)
    fi
    "${pip[@]}" -q install --root-user-action=ignore --target "$python/usr/lib/python3/dist-packages" --no-compile --no-deps --only-binary :all: \
        --require-hashes --python-version "$version" --implementation cp --platform "manylinux_2_28_$(uname -m)" \
        --platform "manylinux2014_$(uname -m)" -r "$here/requirements.txt" >&2 || die "pip failed; the lines above say why"
    # With --no-deps nobody has checked that the list is whole.
    python_of "$python" -c 'import flask_migrate, flask_sqlalchemy, psycopg, redis' ||
        die "requirements.txt lacks something that Debian's Python $version needs"
    rm -rf "$python"/usr/lib/python3*/{test,idlelib,lib2to3,ensurepip,pydoc_data,turtledemo,tkinter}
    compile "$python" "$python" "$python/usr/lib"
    mv "$work/roots" "$roots"
    say "unpacked them in $((SECONDS - started)) s"
fi

images=()
python_config() { # TAG MORE: the image's configuration
    echo "{\"WorkingDir\":\"/app\",$2,\"Env\":[\"PATH=/usr/local/bin:/usr/bin:/bin\",\"PIEFED_VERSION=$1\",\"FLASK_APP=pyfedi.py\",\"PYTHONUNBUFFERED=1\",\"PYTHONDONTWRITEBYTECODE=1\"]}"
}
image() { # NAME CONFIG FOLDER...
    local name=$1 config=$2 IFS=:
    shift 2
    images+=("$*" "migration-gate.test/$name" "$config")
}
for service in postgres:15 redis:7; do
    layer=$work/layers/${service%:*}
    mkdir -p "$layer/usr/local/bin"
    install -m 0755 "$here/services/${service%:*}" "$layer/usr/local/bin/"
    # PostgreSQL takes SIGTERM for a request to wait until its last client is gone.
    image "$service" "{\"User\":\"999:999\",\"StopSignal\":\"SIGINT\",\"Cmd\":[\"/usr/local/bin/${service%:*}\"]}" "$roots/${service%:*}" "$layer"
done
while read -r tag migrations; do
    case $tag in "" | "#"*) continue ;; esac
    layer=$work/layers/$tag
    mkdir -p "$layer/usr/local/bin" "$layer/app/migrations/versions"
    install -m 0755 "$here"/services/{flask,gunicorn,celery,uvicorn} "$layer/usr/local/bin/"
    # As examples/piefed/image/Containerfile puts them on PieFed's image.
    mkdir -p "$layer/app/k8s"
    install -m 0755 "$repository"/examples/piefed/image/{entrypoint-*.sh,await-services.py} "$layer/app/k8s/"
    cp -r "$here"/piefed/{pyfedi.py,app} "$layer/app/"
    cp "$here"/piefed/migrations/{env.py,alembic.ini} "$layer/app/migrations/"
    for migration in $migrations; do
        cp "$here/piefed/migrations/versions/$migration.py" "$layer/app/migrations/versions/"
    done
    find "$layer" -name __pycache__ -prune -exec rm -rf {} +
    compile "$roots/python" "$layer" "$layer/app"
    image "piefed:$tag" "$(python_config "$tag" '"Cmd":["flask","run"]')" "$roots/python" "$layer"
done <"$here/releases"
mkdir -p "$work/layers/old/app"
install -m 0755 "$here/services/entrypoint-old" "$work/layers/old/app/"
image piefed-old:1.0.0 "$(python_config 1.0.0 '"Entrypoint":["/app/entrypoint-old"],"Cmd":["gunicorn"]')" \
    "$roots/python" "$work/layers/1.0.0" "$work/layers/old"

chmod -R u=rwX,go=rX "$work/layers"
"$repository/build/oci-archive.sh" "${images[0]}" "$archive" "${images[@]:1}"
echo "$archive"
