// Serves a large body, its SHA-256, the number of a request on its connection, and a slow stream of numbers.
const { createHash, randomBytes } = require("crypto");
const blob = randomBytes(96 << 20);
const sum = createHash("sha256").update(blob).digest("hex") + "  -\n";
const connections = new Map();
require("http").createServer({ keepAliveTimeout: 60000 }, (request, answer) => {
    const url = new URL(request.url, "http://server");
    if (url.pathname === "/blob") return answer.end(blob);
    if (url.pathname === "/sum") return answer.end(sum);
    if (url.pathname === "/count") {
        // The number of this request on its connection: one that was opened anew would begin again.
        const count = (connections.get(request.socket) || 0) + 1;
        connections.set(request.socket, count);
        return answer.end(String(count));
    }
    let number = 0;
    const until = Date.now() + url.searchParams.get("seconds") * 1000;
    const timer = setInterval(() => {
        answer.write(`${++number}\n`);
        if (Date.now() > until) { clearInterval(timer); answer.end(); }
    }, 10);
}).listen(80);
