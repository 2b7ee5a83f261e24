//! Programs that copy files, and remote shells.

use crate::app::{App, Client, Port, Program};

/// Gets the client's key, and says how it is used.
macro_rules! ssh {
    () => {
        "curl -sf http://server:8000/key >/tmp/key; chmod 600 /tmp/key
        opts='-i /tmp/key -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/tmp/known -o LogLevel=ERROR'"
    };
}

/// A remote shell with a terminal, in which somebody types.
const SHELL: Client = Client {
    program: Program::Bash(concat!(ssh!(), "
        end=$((SECONDS + T)); n=0
        (echo 'stty -echo; PS1=; echo; echo READY'; sleep 1
            while [ $SECONDS -lt $end ]; do echo \"echo $((n += 1))\"; sleep 0.02; done; echo exec true) |
            ssh $opts -tt root@server exec bash --norc --noediting | sed -u 's/\\r//; 1,/^READY/d' | grep --line-buffered -v '^$' |
            $BIN/witness --count")),
    lasting: 1,
    moves: true,
};

const SCP: Client = Client {
    program: Program::Bash(concat!(
        ssh!(),
        "
        wanted=$(ssh $opts root@server 'sha256sum </srv/blob')
        scp -q -l $((48 * 8192 / T)) $opts root@server:/srv/blob /srv/got; got=$(sha256sum </srv/got)
        [ \"$wanted\" = \"$got\" ] || { echo \"sha256 $got, $wanted expected\"; exit 1; }"
    )),
    lasting: 1,
    moves: true,
};

const SFTP: Client = Client {
    program: Program::Bash(concat!(
        ssh!(),
        "
        head -c 24M /dev/urandom >/srv/mine
        echo put /srv/mine /srv/in/theirs | sftp -q -b - -l $((24 * 8192 / T)) $opts root@server
        got=$(ssh $opts root@server 'sha256sum </srv/in/theirs'); wanted=$(sha256sum </srv/mine)
        [ \"$wanted\" = \"$got\" ] || { echo \"sha256 $got, $wanted expected\"; exit 1; }"
    )),
    lasting: 1,
    moves: true,
};

pub(super) const APPS: &[App] = &[
    App {
        name: "OpenSSH: shell, scp, sftp",
        needs: &["/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/scp", "/usr/lib/openssh/sftp-server"],
        version: "ssh -V",
        // Whoever can read this has the key: it opens nothing but a capsule that lives for a minute.
        server: Program::Bash(
            "echo 'root:*:20000:0:99999:7:::' >/etc/shadow; mkdir -p /run/sshd /srv/ssh /srv/in; cd /srv/ssh; ssh-keygen -q -t ed25519 -N '' -f host
            ssh-keygen -q -t ed25519 -N '' -f key; cp key.pub known; head -c 48M /dev/urandom >/srv/blob
            (cd /srv/ssh; exec python3 -m http.server -b 0.0.0.0 8000 >/dev/null 2>&1) &
            exec /usr/sbin/sshd -D -e -f /dev/null -h /srv/ssh/host -o UsePAM=no -o StrictModes=no \
                -o AuthorizedKeysFile=/srv/ssh/known -o Subsystem='sftp /usr/lib/openssh/sftp-server'",
        ),
        listens: &[Port::Tcp(22), Port::Tcp(8000)],
        clients: &[SHELL, SCP, SFTP],
        checked: "a shell on a terminal answers 40 lines a second in order; SHA-256 of 48 MiB down by scp and 24 MiB up by sftp",
    },
    App {
        name: "rsync daemon",
        needs: &["/usr/bin/rsync"],
        version: "rsync --version",
        server: Program::Bash(
            "mkdir -p /srv/out /srv/in; cd /srv/out
            for n in $(seq 48); do head -c 2M /dev/urandom >$n; done; sha256sum * >/srv/sums; mv /srv/sums /srv/out/
            printf 'use chroot=no\\nuid=root\\ngid=root\\n[out]\\npath=/srv/out\\n[in]\\npath=/srv/in\\nread only=no\\n' >/srv/conf
            exec rsync --daemon --no-detach --config=/srv/conf",
        ),
        listens: &[Port::Tcp(873)],
        clients: &[
            Client {
                program: Program::Bash(
                    "mkdir /srv/got; rsync -a --bwlimit=$((98304 / T)) rsync://server/out/ /srv/got/
                    cd /srv/got; sha256sum --quiet -c sums; echo note 96 MiB down",
                ),
                lasting: 1,
                moves: true,
            },
            Client {
                program: Program::Bash(
                    "mkdir /srv/mine /srv/back; cd /srv/mine
                    for n in $(seq 24); do head -c 2M /dev/urandom >$n; done; sha256sum * >/srv/sums
                    rsync -a --bwlimit=$((49152 / T)) /srv/mine/ rsync://server/in/
                    rsync -a rsync://server/in/ /srv/back/
                    cd /srv/back; sha256sum --quiet -c /srv/sums; echo note 48 MiB up",
                ),
                lasting: 1,
                moves: true,
            },
        ],
        checked: "SHA-256 of every file, down and up",
    },
    App {
        name: "git daemon",
        needs: &["/usr/lib/git-core/git-daemon"],
        version: "/usr/bin/git --version",
        server: Program::Bash(
            "mkdir -p /srv/git/r; cd /srv/git/r; export HOME=/root PATH=/usr/bin:/bin
            git init -q .; git config user.email a@example.org; git config user.name a
            for n in $(seq 40); do head -c 256k /dev/urandom >$n; git add .; git commit -qm $n; done
            exec git daemon --reuseaddr --export-all --base-path=/srv/git",
        ),
        listens: &[Port::Tcp(9418)],
        clients: &[Client {
            program: Program::Bash(
                "export HOME=/root PATH=/usr/bin:/bin; n=0; end=$((SECONDS + T)); head=$(git ls-remote git://server/r HEAD)
                while [ $SECONDS -lt $end ]; do
                    rm -rf /srv/r; git clone -q git://server/r /srv/r; git -C /srv/r fsck --strict
                    [ \"$(git -C /srv/r rev-parse HEAD)\" = \"${head%%[[:space:]]*}\" ]; n=$((n + 1))
                done; echo note $n clones",
            ),
            lasting: 0,
            moves: true,
        }],
        checked: "clones of 10 MiB one after the other, each checked by git fsck",
    },
];
