//! Databases and caches.

use crate::app::{App, Client, Port, Program};

pub(super) const APPS: &[App] = &[
    App {
        name: "Redis",
        needs: &["/usr/bin/redis-server", "/usr/bin/redis-benchmark"],
        version: "redis-server --version",
        server: Program::Bash("exec redis-server --save '' --protected-mode no"),
        listens: &[Port::Tcp(6379)],
        clients: &[
            Client {
                program: Program::Bash(
                    "$BIN/db-client --redis server:6379 --rate 1000 --seconds $T --json",
                ),
                lasting: 1,
                moves: true,
            },
            Client {
                // It ends at the first error, and otherwise not before `timeout` ends it.
                program: Program::Bash(
                    "code=0
                    timeout $T redis-benchmark -h server -c 50 -n 1000000000 -t incr -q >/tmp/said 2>&1 || code=$?
                    [ $code = 124 ] || { tail -c 300 /tmp/said; exit 1; }",
                ),
                lasting: 50,
                moves: true,
            },
        ],
        checked: "a counter's every answer is the one after the last; redis-benchmark on 50 connections, no error",
    },
    App {
        name: "PostgreSQL",
        needs: &["/usr/lib/postgresql/*/bin/postgres", "/usr/lib/postgresql/*/bin/pgbench", "/usr/bin/psql"],
        version: "/usr/lib/postgresql/*/bin/postgres --version",
        server: Program::Bash(
            "programs=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
            as='setpriv --reuid postgres --regid postgres --clear-groups'
            install -d -o postgres -g postgres -m 700 /srv/pg
            $as $programs/initdb -A trust -U postgres --no-sync -D /srv/pg
            echo 'host all all all trust' >>/srv/pg/pg_hba.conf
            exec $as $programs/postgres -D /srv/pg -h '*' -k ''",
        ),
        listens: &[Port::Tcp(5432)],
        clients: &[
            Client {
                program: Program::Bash(
                    "export PGHOST=server PGUSER=postgres; cd /tmp
                    pgbench=$(ls -d /usr/lib/postgresql/*/bin/pgbench | tail -1)
                    $pgbench -i -s 2 -q
                    $pgbench -c 8 -j 2 -T $T -l 2>&1 | tee said
                    done=$(sed -n 's/^number of transactions actually processed: //p' said)
                    grep -q '^number of failed transactions: 0 ' said
                    kept=$(psql -Atc 'select count(*) from pgbench_history')
                    [ \"$done\" = \"$kept\" ] || { echo \"$done transactions, $kept in the history\"; exit 1; }
                    psql -Atc 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
                        and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)' | grep -q t
                    echo note $done transactions
                    awk '$3 > most { most = $3 } END { print \"gap_ms\", most / 1000 }' pgbench_log.*",
                ),
                lasting: 8,
                moves: true,
            },
            Client {
                program: Program::Bash(
                    "end=$((SECONDS + T)); n=0
                    while [ $SECONDS -lt $end ]; do echo \"select $((n += 1));\"; sleep 0.02; done |
                        psql -h server -U postgres -AtX -v ON_ERROR_STOP=1 | $BIN/witness --count",
                ),
                lasting: 1,
                moves: true,
            },
        ],
        checked: "pgbench on 8 connections: no transaction failed, all are in the history, balances agree; answers of a psql in order",
    },
    App {
        name: "MariaDB",
        needs: &["/usr/sbin/mariadbd", "/usr/bin/mariadb-install-db", "/usr/bin/mariadb"],
        version: "mariadbd --version",
        server: Program::Bash(
            "install -d -o mysql /srv/db
            mariadb-install-db --no-defaults --user=mysql --datadir=/srv/db --auth-root-authentication-method=normal \
                --skip-test-db --innodb-use-native-aio=0 >/dev/null
            echo \"create user who@'%'; grant all on *.* to who@'%'; create database d;
                create table d.t (n int auto_increment primary key, who int);\" | sed 's/; /;\\n/g' >/srv/first
            exec mariadbd --no-defaults --user=mysql --datadir=/srv/db --socket=/tmp/mysqld.sock --skip-name-resolve \
                --innodb-use-native-aio=0 --innodb-flush-log-at-trx-commit=2 --init-file=/srv/first",
        ),
        listens: &[Port::Tcp(3306)],
        clients: &[Client {
            program: Program::Bash(
                "ask='mariadb --no-defaults --skip-auto-rehash --skip-reconnect -h server -u who -N -B --unbuffered d'
                for who in 1 2 3 4; do
                    end=$((SECONDS + T))
                    while [ $SECONDS -lt $end ]; do
                        echo \"insert into t (who) values ($who); select count(*) from t where who = $who;\"; sleep 0.02
                    done | $ask | $BIN/witness --count & pids=\"${pids-} $!\"
                done
                for pid in $pids; do wait $pid; done",
            ),
            lasting: 4,
            moves: true,
        }],
        checked: "4 connections insert and count their own rows: every answer in order",
    },
    App {
        name: "memcached",
        needs: &["/usr/bin/memcached", "/usr/bin/python3"],
        version: "memcached -V",
        server: Program::Bash("exec memcached -u root -l 0.0.0.0"),
        listens: &[Port::Tcp(11211)],
        clients: &[Client { program: Program::Python(include_str!("../programs/memcached.py")), lasting: 20, moves: true }],
        checked: "20 connections count and read values of 20 kB back, every answer compared",
    },
];
