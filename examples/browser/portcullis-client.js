// Keeps a page logged in through Portcullis. The access token lives in this module's memory and nowhere else; the
// refresh token lives in a cookie that no script can read. All tabs of a browser share one session: one of them
// refreshes at a time, and the others take what it got.

export class Portcullis {
  #token = null; // the access token
  #refreshing = null; // the refresh that runs, for all who need one meanwhile
  #others = new BroadcastChannel("portcullis"); // the other tabs

  // `changed` is told "in", "out", or "waiting" while the gateway cannot say.
  constructor({ prefix = "/auth", changed = () => {} } = {}) {
    this.prefix = prefix;
    this.changed = changed;
    this.#others.onmessage = ({ data }) => this.#take(data);
  }

  // Once, when the page loads: whether somebody is logged in. An outage is waited out: it says nothing about that.
  async start() {
    for (let pause = 1000; ; pause = Math.min(2 * pause, 30000)) {
      try {
        return (await this.#refresh(null)) !== null;
      } catch {
        this.changed("waiting");
        await new Promise((go) => setTimeout(go, pause * (0.5 + Math.random() / 2)));
      }
    }
  }

  async login(username, password) {
    const answer = await this.#alone(() => this.#post("login", { username, password, delivery: "cookie" }));
    if (!answer.ok) throw await problem(answer);
    this.#tell((await answer.json()).accessToken);
  }

  // 401: the session had ended already.
  async logout({ everywhere = false } = {}) {
    const answer = await this.#alone(() => this.#post(everywhere ? "logout-all" : "logout"));
    if (!answer.ok && answer.status !== 401) throw await problem(answer);
    this.#tell(null);
  }

  // Like `fetch`, with the access token. The gateway says when that has run out; then one refresh, one more try.
  async fetch(input, init) {
    const request = new Request(input, init);
    if (new URL(request.url).origin !== location.origin) throw new TypeError("the token is for our own origin only");
    const token = this.#token;
    const answer = await this.#call(request.clone(), token);
    if (answer.status !== 401) return answer;
    const fresh = await this.#refresh(token);
    return fresh === null ? answer : this.#call(request, fresh);
  }

  // A token in place of `stale`; null if nobody is logged in. Only a 401 says that: on anything else it throws.
  #refresh(stale) {
    this.#refreshing ??= this.#alone(async () => {
      if (this.#token !== stale) return this.#token; // another tab was faster
      const answer = await this.#post("refresh");
      if (!answer.ok && answer.status !== 401) throw await problem(answer);
      // Each tab believes a refusal for itself alone: it may be older than a login elsewhere.
      return answer.ok ? this.#tell((await answer.json()).accessToken) : this.#take(null);
    }).finally(() => (this.#refreshing = null));
    return this.#refreshing;
  }

  // One tab at a time. Where there are no locks the gateway copes with tabs that race, at the price of a request.
  #alone(act) {
    return navigator.locks ? navigator.locks.request("portcullis", act) : act();
  }

  #call(request, token) {
    if (token !== null) request.headers.set("Authorization", `Bearer ${token}`);
    return fetch(request);
  }

  #post(what, body) {
    const json = body && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    return fetch(`${this.prefix}/${what}`, { method: "POST", signal: AbortSignal.timeout(20000), ...json });
  }

  #tell(token) {
    this.#others.postMessage(token);
    return this.#take(token);
  }

  #take(token) {
    this.#token = token;
    this.changed(token === null ? "out" : "in");
    return token;
  }
}

async function problem(answer) {
  const { message } = await answer.json().catch(() => ({}));
  return Object.assign(new Error(message ?? `The gateway answered ${answer.status}`), { status: answer.status });
}
