// Asks for numbers over one connection that is kept; a server that sees another one begins to count again.
const http = require("http");
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const until = Date.now() + process.env.T * 1000;
let count = 0;
function ask() {
    http.get({ host: "server", path: "/count", agent }, answer => {
        let text = "";
        answer.on("data", part => text += part);
        answer.on("end", () => {
            count += 1;
            if (Number(text) !== count) throw new Error(`${text} came, ${count} expected`);
            if (Date.now() < until) setTimeout(ask, 5);
            else { console.log(`note ${count} requests on one connection`); agent.destroy(); }
        });
    }).on("error", error => { throw error; });
}
ask();
