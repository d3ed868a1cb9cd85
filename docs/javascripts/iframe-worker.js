// A browser starts no worker for a page that was opened as a file, and the search is one: run its script in a hidden frame.
// The name of this file tells the theme's plugin that it need not load such a script from another host.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.documentElement.append(frame)
      const inside = frame.contentWindow
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      const script = inside.document.createElement("script")
      this.started = new Promise(resolve => (script.onload = resolve))
      this.inside = inside
      script.src = new URL(address, location.href)
      inside.document.documentElement.append(script)
    }

    postMessage(data) {
      this.started.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
