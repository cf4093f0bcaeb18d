/** As much of a browser as the start page needs: its elements, its address, its requests. */

/** One element; what a script sets is there to be looked at. */
export class Element {
  textContent = "";
  value = "";
  disabled = false;
  hidden: boolean;
  inside: Element[] = [];
  readonly #listeners = new Map<string, ((event: object) => void)[]>();

  constructor(
    private readonly page: { focused: Element | null },
    readonly tag: string,
    readonly attributes: Map<string, string>,
  ) {
    this.hidden = attributes.has("hidden");
  }

  get id(): string {
    return this.attributes.get("id") ?? "";
  }

  /** `tag` or `tag[name="…"]`. */
  querySelectorAll(selector: string): Element[] {
    const [, tag, name] = /^(\w+)(?:\[name="(.*)"\])?$/.exec(selector) ?? [];
    return this.inside.filter(
      (one) => one.tag === tag && (name === undefined || one.getAttribute("name") === name),
    );
  }

  querySelector(selector: string): Element | null {
    return this.querySelectorAll(selector)[0] ?? null;
  }

  getAttribute(name: string): string | null {
    return this.attributes.get(name) ?? null;
  }

  setAttribute(name: string, value: string): void {
    this.attributes.set(name, value);
  }

  removeAttribute(name: string): void {
    this.attributes.delete(name);
  }

  addEventListener(type: string, listener: (event: object) => void): void {
    this.#listeners.set(type, [...(this.#listeners.get(type) ?? []), listener]);
  }

  dispatch(type: string, event: object): void {
    for (const listener of this.#listeners.get(type) ?? []) listener(event);
  }

  focus(): void {
    this.page.focused = this;
  }

  reset(): void {
    for (const input of this.querySelectorAll("input")) input.value = "";
  }
}

export interface Page {
  focused: Element | null;
  location: { hash: string; pathname: string; search: string };
  element(id: string): Element | null;
  forms: Element[];
  /** Types into the form, presses its button and waits for the answer. */
  submit(id: string, values?: Record<string, string>): Promise<void>;
  /** Follows another link while the page is open. */
  follow(hash: string): void;
}

/** Opens a page at `/` with this fragment, and runs its script on it. */
export async function openPage(
  html: string,
  script: string,
  hash: string,
  send: (request: Request) => Promise<Response>,
): Promise<Page> {
  const elements: Element[] = [];
  const page = { focused: null as Element | null };
  let form: Element | null = null;
  await new HTMLRewriter()
    .on("[id], button", {
      element(found) {
        const one = new Element(page, found.tagName, new Map(found.attributes));
        elements.push(one);
        if (one.tag === "form") {
          form = one;
          found.onEndTag(() => {
            form = null;
          });
        } else form?.inside.push(one);
      },
    })
    .transform(new Response(html))
    .text();
  const element = (id: string): Element | null => elements.find((one) => one.id === id) ?? null;
  const forms = elements.filter(({ tag }) => tag === "form");
  const location = { hash, pathname: "/", search: "" };
  const window = new Element(page, "window", new Map());
  let sent: Promise<unknown> = Promise.resolve();
  const environment = {
    document: { getElementById: element, forms },
    location,
    history: {
      replaceState(_state: null, _title: string, url: string) {
        location.hash = new URL(url, "http://argo.test").hash;
      },
    },
    addEventListener: window.addEventListener.bind(window),
    FormData: function entries(of: Element) {
      return of.querySelectorAll("input").map((input) => [input.getAttribute("name"), input.value]);
    },
    fetch(path: string, init: RequestInit) {
      const answer = send(new Request(new URL(path, "http://argo.test/").href, init));
      sent = answer.catch(() => undefined);
      return answer;
    },
  };
  new Function(...Object.keys(environment), script)(...Object.values(environment));
  return {
    get focused() {
      return page.focused;
    },
    location,
    element,
    forms,
    async submit(id, values = {}) {
      const submitted = element(id);
      for (const [name, value] of Object.entries(values)) {
        const input = submitted?.querySelector(`input[name="${name}"]`);
        if (!input) throw new Error(`the form ${id} has no field ${name}`);
        input.value = value;
      }
      submitted?.dispatch("submit", { preventDefault: () => undefined });
      await sent;
      // What the script does with the answer.
      while (submitted?.querySelector("button")?.disabled) await Bun.sleep(1);
    },
    follow(next) {
      location.hash = next;
      window.dispatch("hashchange", {});
    },
  };
}
