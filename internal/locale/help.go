package locale

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Help gives the help of a command, and of those below it, in Chinese, if the locale is Chinese.
func Help(cmd *cobra.Command) {
	if Chinese() {
		eachText(cmd, func(text *string) {
			if chinese, ok := help[*text]; ok {
				*text = chinese
			}
		})
	}
}

// MissingHelp returns the texts in the help of a command, and of those below it, that have no Chinese.
func MissingHelp(cmd *cobra.Command) (missing []string) {
	eachText(cmd, func(text *string) {
		if _, ok := help[*text]; !ok && strings.TrimSpace(*text) != "" {
			missing = append(missing, *text)
		}
	})
	return missing
}

func eachText(cmd *cobra.Command, visit func(text *string)) {
	visit(&cmd.Short)
	visit(&cmd.Long)
	flag := func(flag *pflag.Flag) { visit(&flag.Usage) }
	cmd.LocalFlags().VisitAll(flag)
	for _, below := range cmd.Commands() {
		eachText(below, visit)
	}
}

// help holds the Chinese of each text in a command's help.
var help = map[string]string{
	// caddy chinaums
	"Signs, verifies, notifies and plays ChinaUMS (银联商务)": "银联商务：签名、验签、发送测试通知、运行沙箱",
	"\nSigns a call's body; says whether a saved notify verifies and, if not, which known\nmistake explains it; sends a test notify; plays the platform on this machine; shows what the watch of the\nrunning Caddy knows of orders and refunds.\n\nKeys never come from an argument. They come from a Caddy configuration\n(--config, with --merchant where there are several), or else from the\nenvironment: UMS_APP_ID and UMS_APP_KEY for calls, UMS_NOTIFY_KEY for notifies, UMS_MID\nfor the mid of a test notify.": "\n给请求报文签名；对保存下来的通知验签，失败时说明是哪种常见错误；发送测试通知；\n在本机运行模拟平台的沙箱；查看运行中的 Caddy 的 watch 跟踪的订单和退款。\n\n密钥不从命令行参数传入，而是来自 Caddy 配置（--config，有多个商户时加 --merchant），\n或来自环境变量：UMS_APP_ID 和 UMS_APP_KEY 用于调用，UMS_NOTIFY_KEY 用于通知，\nUMS_MID 是测试通知里的 mid。",
	"Prints the Authorization header for a body": "打印一段报文的 Authorization 请求头",
	"\nReads a body from the file, or from standard input, and prints the OPEN-BODY-SIG\nheader for exactly these bytes. The header is good for anybody who has it: do not\nshare it.\n\nWith --curl it prints a curl line that sends the body to this path of the\nmerchant's platform; it needs a file then.": "\n从文件或标准输入读取报文，打印这段报文的 OPEN-BODY-SIG 请求头。谁拿到它都能使用：\n不要外传。\n\n加 --curl 时，打印一行 curl 命令，把报文发往商户所用平台的这个路径；此时必须给出文件。",
	"Print a curl line for this path":                                             "打印调用该路径的 curl 命令",
	"Caddy configuration that has the merchant":                                   "含有该商户的 Caddy 配置",
	"Config adapter of the configuration":                                         "该配置的适配器",
	"Merchant's name; may be left out where there is one":                         "商户名；只有一个商户时可省略",
	"Says whether a saved notify verifies and, if not, which mistake explains it": "对保存下来的通知验签，失败时说明原因",
	"\nThe signature doctor. Reads from the file, or from standard input, one of\n\n  - a notify's body, a form or JSON, as it arrived;\n  - a whole HTTP request: request line, headers, an empty line, the body;\n  - the address of a return page or of an H5 link;\n  - a call's request with its header Authorization: OPEN-BODY-SIG ...\n\nand says whether the signature is right with the merchant's keys, what exactly was\nsigned, the digests, and if it is wrong, which known mistake gives just this\nsignature: another digest, another configured key, '+' kept, decoded twice, not\ndecoded, empty values in, values re-serialized, GBK, '&key=', the app_key instead of\nthe communication key, sorted regardless of case, and so on.\n\nIt exits with 1 if the signature is wrong. It speaks Chinese where LC_ALL,\nLC_MESSAGES or LANG says zh. Values are masked unless --show is given: they may be a\nbuyer's.": "\n验签诊断。从文件或标准输入读取以下之一：\n\n  - 通知的报文（表单或 JSON），与收到时一致；\n  - 完整的 HTTP 请求：请求行、请求头、空行、报文；\n  - 返回页或 H5 链接的地址；\n  - 带 Authorization: OPEN-BODY-SIG ... 请求头的调用请求\n\n用商户的密钥验签，并打印待签名串和摘要。验签失败时，说明是哪种常见错误造成的：\n摘要算法不同、用了另一把已配置的密钥、“+”未解码、解码两次、未解码、空值参与签名、\n值被重新序列化、GBK、“&key=”、用 app_key 代替通讯密钥、排序不区分大小写等。\n\n验签失败时退出码为 1。LC_ALL、LC_MESSAGES 或 LANG 以 zh 开头时输出中文。\n值可能是买家信息，默认遮盖，加 --show 才显示。",
	"Show values":                "显示各参数的值",
	"Sends a signed test notify": "发送带签名的测试通知",
	"\nSends a notify of an imaginary order to an address, signed with the merchant's own\nnotify key, as the platform would, and prints the status and the answer. It is sent\nonce; redirects are not followed, as the platform follows none.\n\nKinds: payment, refund, bill, deduction, guarantee.\n\nVariants that have to be taken: genuine, late, reordered, json, gbk. Variants that\nhave to be refused: tampered, recut, unsigned, other-key, foreign-mid. The command\nexits with 1 if the answer is not what the variant deserves.\n\nSomebody who has this key can tell a shop that anything was paid: send it to your own\ngateway only.": "\n像平台一样，用商户的通讯密钥签名，向某个地址发送一笔虚构订单的通知，并打印状态码和返回内容。\n只发一次；与平台一样，不跟随重定向。\n\n类型：payment（支付）、refund（退款）、bill（账单）、deduction（代扣）、guarantee（担保）。\n\n必须收下的变体：genuine、late、reordered、json、gbk。必须拒绝的变体：tampered、\nrecut、unsigned、other-key、foreign-mid。返回内容与变体不符时退出码为 1。\n\n拿到这把密钥的人，可以向商户伪造任何订单已付款的通知：只能发给自己的网关。",
	"What the notify reports":                                                         "通知的类型",
	"How it is sent, or what is wrong with it":                                        "发送方式，或要制造的错误",
	"Digest, SHA256 or MD5 (default: SHA256, if the merchant accepts it)":             "摘要算法，SHA256 或 MD5（默认 SHA256，前提是商户接受）",
	"Letters of the sign's hexadecimal, upper or lower; the platform's own are upper": "签名的十六进制用大写（upper）还是小写（lower）；平台用大写",
	"Set a field, or take it out with an empty value (may be repeated)":               "设置一个字段；值为空则去掉该字段（可多次使用）",
	"Print the body instead of sending it":                                            "只打印报文，不发送",
	"Write the body to this file, for verify; a file that is there is replaced":       "把报文写入该文件，供 verify 使用；已有的文件会被替换",
	"How long to wait for the answer; 0: without a limit":                             "等待返回的时间；0 表示一直等",
	"Plays the platform on this machine":                                              "在本机运行模拟平台的沙箱",
	"\nPlays ChinaUMS on loopback until it is interrupted: it checks the signatures of\ncalls, keeps orders, refunds and bills, and sends signed notifies, repeated until they\nare answered SUCCESS.\n\nIt makes fresh keys at each start and prints them as lines for a shell, and then the\npart of a Caddyfile that uses them. With --ui there is a page of its orders, with a\nbutton that pays. With --save each notify that it sends becomes a file,\n<directory>/<order>-<n>.txt, which \"caddy chinaums verify\" reads; the newest 1000 of a\nrun are kept.\n\nA call that it takes although the documents want it otherwise is told on standard\nerror, once for each interface, and on the page.": "\n在本机模拟银联商务，按 Ctrl-C 结束：检查调用的签名，保存订单、退款和账单，发送带签名的通知，\n没有收到 SUCCESS 就重发。\n\n每次启动都生成新密钥，打印成 shell 命令，再打印使用它们的 Caddyfile 片段。加 --ui 时提供\n订单页面，页面上可以付款。加 --save 时，发出的每条通知存为一个文件\n<目录>/<订单号>-<序号>.txt，可用 caddy chinaums verify 验签；每次运行保留最新的 1000 个。\n\n与文档不符、但沙箱仍然接受的调用，会在标准错误输出上提示（每个接口一次），页面上也会显示。",
	"Loopback address; port 0 takes a free one":                  "本机地址；端口 0 表示任取空闲端口",
	"Serve a page of the orders at /":                            "在 / 提供订单页面",
	"The same as --ui":                                           "同 --ui",
	"Where notifies go, besides the order's own notifyUrl":       "除订单自己的 notifyUrl 之外，通知还发往哪里",
	"Digest of notifies, SHA256 or MD5":                          "通知的摘要算法，SHA256 或 MD5",
	"Repeat notifies after seconds instead of minutes and hours": "通知隔几秒就重发，而不是隔几分钟或几小时",
	"Save each notify that is sent in this directory":            "把发出的每条通知保存到该目录",
	"Runs sandbox, gateway and your app in one terminal":         "在一个终端里运行沙箱、网关和您的应用",
	"\nPlays the platform on loopback, runs the gateway in front of it, and sends each event\nto your app, until it is interrupted. It prints what to open and what to type, and then\na line for each call, event and reply. The keys are fresh at each start; mid, tid and\nsource number are always the same. It touches no configuration and no data of another\nCaddy.\n\nThe app: --app 127.0.0.1:8903 is a web server. fastcgi://127.0.0.1:9000, or\nfastcgi:///run/php/php-fpm.sock, is PHP-FPM, which runs the index.php of the current\ndirectory. Without --app, and where there is php-cgi and an index.php in the current\ndirectory, php-cgi is started. Otherwise the gateway accepts every event.\n\nThe app gets events as POST /notify. APP_SECRET is fresh too, unless it is set in the\nenvironment. PHP gets it with BOOK, GATEWAY, NOTIFY_URL, and UMS_MID, UMS_TID and\nUMS_SOURCE (Shouqianba: SQB_TERMINAL_SN).\n\nWith --watch the gateway follows orders and refunds, and keeps events in an inbox. The\nadmin API is on the fifth port.": "\n在本机启动模拟平台的沙箱和网关，把每个事件发给您的应用，按 Ctrl-C 结束。启动后打印页面地址\n和可直接粘贴的命令，之后每次调用、事件和返回各打印一行。每次启动都生成新密钥；mid、tid 和\n来源编号固定不变。不读写其他 Caddy 的配置和数据。\n\n应用：--app 127.0.0.1:8903 表示 Web 服务；fastcgi://127.0.0.1:9000 或\nfastcgi:///run/php/php-fpm.sock 表示 PHP-FPM，运行当前目录的 index.php。不写 --app 时，\n如果有 php-cgi 且当前目录有 index.php，就启动 php-cgi；否则由网关接收所有事件。\n\n事件以 POST /notify 发给应用。APP_SECRET 也是新生成的，除非环境变量里已经设置。PHP 还能读到\nBOOK、GATEWAY、NOTIFY_URL，以及 UMS_MID、UMS_TID 和 UMS_SOURCE（收钱吧为 SQB_TERMINAL_SN）。\n\n加 --watch 时，网关跟踪订单和退款，事件先存入收件箱。管理 API 在第五个端口。",
	"Where your app takes events: host:port, fastcgi://host:port or fastcgi:///path/of/a.sock": "应用在哪里接收事件：host:port、fastcgi://host:port 或 fastcgi:///path/of/a.sock",
	"First of the ports: platform, way out, way in, pages of a PHP app, admin API":             "第一个端口，依次为：平台、出站、入站、PHP 应用的页面、管理 API",
	"Follow orders and refunds, with an inbox":                                                 "跟踪订单和退款，并使用收件箱",
	"chinaums or shouqianba":                                              "chinaums 或 shouqianba",
	"Prints the plugin's version, Caddy's and Go's":                       "打印插件、Caddy 和 Go 的版本",
	"Says whether the Caddy that is running has loaded its configuration": "检查正在运行的 Caddy 是否已加载配置",
	"\nAsks the admin endpoint of the Caddy that is running for its http app, and exits\nwith 0 if there is one. A container's health check calls it.\n\nIt says nothing about the platform or your app: the metrics and alerts do.": "\n向正在运行的 Caddy 的管理端点查询 http 应用，存在则退出码为 0。供容器健康检查使用。\n\n它不检查平台和您的应用，这些要看指标和告警。",
	"Address of the admin endpoint, if not the default":                             "管理端点的地址，默认地址可省略",
	"Configuration that has the admin endpoint's address, if --address is not used": "未用 --address 时，从该配置读取管理端点的地址",

	// caddy shouqianba
	"Verifies and plays Shouqianba (收钱吧)":                                             "收钱吧：验签、运行沙箱",
	"\nSays whether a saved notify verifies, and plays the platform on this machine.": "\n对保存下来的通知验签；在本机运行模拟平台的沙箱。",
	"Says whether a saved notify verifies":                                            "对保存下来的通知验签",
	"\nReads a notify from the file, or from standard input: the whole HTTP request with its\nheader Authorization, which is the signature, as the sandbox's --save writes it. Says\nwhether one of the terminal's public keys verifies it and, if none does, which known\nmistake explains it. It exits with 1 then.": "\n从文件或标准输入读取通知：完整的 HTTP 请求，其中 Authorization 请求头就是签名，与沙箱的\n--save 保存的一样。用终端的各个公钥验签；都不通过时，说明是哪种常见错误，退出码为 1。",
	"Caddy configuration that has the terminal":           "含有该终端的 Caddy 配置",
	"Terminal's name; may be left out where there is one": "终端名；只有一个终端时可省略",
	"\nPlays Shouqianba on loopback until it is interrupted: it checks the signatures of\ncalls, activates and checks in terminals, keeps orders and refunds, and sends signed\nnotifies to each order's notify_url, repeated until they are answered success.\n\nIt makes fresh keys at each start and prints them as lines for a shell, and then the\npart of a Caddyfile that uses them. With --ui there is a page of its orders, with a\nbutton that pays. With --save each notify that it sends becomes a file,\n<directory>/<client_sn>-<n>.txt, which \"caddy shouqianba verify\" reads; the newest 1000\nof a run are kept.": "\n在本机模拟收钱吧，按 Ctrl-C 结束：检查调用的签名，处理终端的激活和签到，保存订单和退款，\n向每笔订单的 notify_url 发送带签名的通知，没有收到 success 就重发。\n\n每次启动都生成新密钥，打印成 shell 命令，再打印使用它们的 Caddyfile 片段。加 --ui 时提供\n订单页面，页面上可以付款。加 --save 时，发出的每条通知存为一个文件\n<目录>/<client_sn>-<序号>.txt，可用 caddy shouqianba verify 验签；每次运行保留最新的 1000 个。",
	"Repeat notifies after seconds instead of minutes": "通知隔几秒就重发，而不是隔几分钟",

	// caddy inbox
	"Lists, shows, redelivers, deletes and exports the messages of an inbox": "收件箱：列出、查看、重新投递、删除、导出消息",
	"\nLooks into an inbox of the Caddy that is running, through its admin API.\n\nWhere the admin API is comes from --address, or from the given --config; otherwise\nthe default is assumed.": "\n通过管理 API 查看正在运行的 Caddy 的收件箱。\n\n管理 API 的地址来自 --address，或来自 --config 所给的配置；都没有时用默认地址。",
	"Configuration file to get the admin address from, if --address is not used":                                                                                                                "未用 --address 时，从该配置文件读取管理 API 的地址",
	"Name of config adapter to apply (when --config is used)":                                                                                                                                   "配置适配器的名字（与 --config 一起用）",
	"Shows an order with its timeline": "查看订单及其时间线",
	"\nPrints as JSON what the watch knows of an order: what was sent, answered, asked,\nnotified and told. The number may be a refund's.": "\n以 JSON 打印 watch 跟踪的一笔订单：发送、返回、查单、通知、通知应用的情况。\n单号也可以是退款单号。",
	"Only orders of this merchant":          "只看该商户的订单",
	"Lists the orders that the watch knows": "列出 watch 跟踪的订单",
	"\nLists orders by merchant and number, as the watch of the running Caddy knows them.\n--state stuck shows where a person has to look. Amounts are in fen.": "\n按商户和单号列出运行中的 Caddy 的 watch 跟踪的订单。\n--state stuck 列出需要人工处理的。金额单位为分。",
	"Only orders behind this one, given as merchant/number":                                                                                        "只列出该订单之后的，写作 商户/单号",
	"Only orders with a number, their own or a refund's, that contains this":                                                                       "只列出单号或退款单号含有该内容的订单",
	"Only orders in this state, or with a refund in it: open, paid, unresolved, stuck and so on":                                                   "只列出处于该状态、或有退款处于该状态的订单：open、paid、unresolved、stuck 等",
	"Queries an order at the platform now":                                                                                                         "立即向平台查询订单",
	"\nQueries an order, and each of its refunds whose end is not known, and prints what\nthe watch knows then. What it finds is told to the app.": "\n查询订单，以及每一笔结果未知的退款，并打印查询之后 watch 的记录。\n查到的结果会通知应用。",
	"Compares what was ordered, told and taken on a day":                                                                                           "核对某一天的下单、通知和应用接收情况",
	"\nPrints the orders whose payment became known on a day in Shanghai, and the refunds\nthat were sent on it and are unresolved, each with a verdict. It is no settlement\nstatement.": "\n打印某一天（北京时间）确认付款的订单，以及当天发出、结果未知的退款，并逐笔给出核对结果。\n不是清算对账单。",
	"Print CSV, which a spreadsheet opens":                   "打印 CSV，可用电子表格打开",
	"The day, like 2026-11-28; yesterday if it is not given": "日期，如 2026-11-28；不写则为昨天",
	"Tells the app of an order again":                        "重新通知应用",
	"\nQueries an order and its refunds, and tells the app what the platform says, with\nthe same ids, even if it has them: the app must expect it.": "\n查询订单及其退款，把平台的结果以相同的 id 重新通知应用，即使应用已经收到过：\n应用必须能处理重复。",
	"Address of the admin API, if not the default": "管理 API 的地址，默认地址可省略",
	"Name of the inbox":                            "收件箱的名字",
	"Lists messages, without what is in them":      "列出消息，不含内容",
	"\nLists messages in the order in which they were stored. TRIED is how many deliveries\nhave failed; WHEN is when a pending message is delivered next, or when another was\ndelivered or given up; ANSWER is the app's last; SUBJECT is the order's number, or\nwhat else Ce-Subject said.": "\n按存入的先后列出消息。TRIED 是投递失败的次数；WHEN 是待投递消息下次投递的时间，\n或其他消息投递成功、成为死信的时间；ANSWER 是应用最近一次的返回；SUBJECT 是订单号，\n或 Ce-Subject 的其他内容。",
	"Only messages of this state: pending, delivered or dead": "只列出该状态的消息：pending（待投递）、delivered（已投递）或 dead（死信）",
	"Only messages with a higher seq than this":               "只列出 seq 更大的消息",
	"At most so many, up to 1000":                             "最多列出多少条，上限 1000",
	"Print JSON, as the admin API answers":                    "打印管理 API 返回的 JSON",
	"Shows one message, masked":                               "查看一条消息，敏感内容会遮盖",
	"\nPrints one message as JSON. Of the request, header values and the URI's query are\nmasked, and of the body only its size and digest are there. The beginning of the\napp's last answer is printed as it is. --show prints all of it, which may be secret.": "\n以 JSON 打印一条消息。请求头的值和 URI 的查询串遮盖，报文只显示大小和摘要。应用最近一次\n返回的开头原样打印。加 --show 则全部打印，其中可能有敏感信息。",
	"Print the request unmasked":             "打印完整的请求，不遮盖",
	"Delivers messages now, dead ones again": "立即投递消息；死信重新投递",
	"\nA dead message becomes pending as if new, a pending one is delivered now instead of\nlater. One that was delivered is delivered again with --force only: the app must\nexpect it.\n\n--all-dead takes all messages that are dead when it begins.": "\n死信恢复为待投递，如同新消息；待投递的消息立即投递。已投递的消息只有加 --force 才会再次投递：\n应用必须能处理重复。\n\n--all-dead 处理命令开始时的全部死信。",
	"All dead messages":                 "全部死信",
	"Even messages that were delivered": "已投递的消息也处理",
	"Only messages whose id or subject contains this, such as an order's number": "只列出 id 或主题（如订单号）中含有该内容的消息",
	"Counts the messages": "统计消息数量",
	"\nCounts the messages of an inbox. OLDEST is when the oldest pending one was received;\nBYTES is what counts against max_store.": "\n统计收件箱里的消息。OLDEST 是最早的待投递消息的收到时间；BYTES 是计入 max_store 的字节数。",
	"Deletes messages for good": "永久删除消息",
	"\nDeletes messages that were delivered or given up. One that is still to be delivered\nis deleted with --force only: the app never gets it. If the sender repeats what was\ndeleted, it is delivered as if it were new.\n\n--all-dead deletes all messages that were given up, and with --before those that were\ngiven up before a time. The log of Caddy says who has deleted which.": "\n删除已投递的消息或死信。待投递的消息只有加 --force 才会删除，应用将收不到它。\n发送方再次发来已删除的消息时，按新消息投递。\n\n--all-dead 删除全部死信，加 --before 则只删除该时间之前成为死信的。Caddy 的日志会记录谁删除了哪些消息。",
	"With --all-dead: only those that were given up before this time (RFC 3339)": "与 --all-dead 一起用：只删除该时间（RFC 3339）之前成为死信的",
	"Even messages that are still to be delivered":                               "待投递的消息也删除",
	"Writes all messages, whole, into a file":                                    "把全部消息完整写入文件",
	"\nWrites all messages of an inbox into a new file, one JSON object a line, as\n\"caddy inbox show --show\" prints them. Nothing in it is masked: it has what the\npayers and the app told each other, and only its owner may read it (mode 0600).\n\n--file reads the messages from the file of an inbox (store bolt) that no Caddy has\nopen, without asking any Caddy. A damaged file is read as far as it can be; what was\nleft out is said on standard error, and the command fails.": "\n把收件箱的全部消息写入一个新文件，每行一个 JSON 对象，格式与 caddy inbox show --show 相同。\n内容不遮盖，含有买家信息和应用的返回，文件权限为 0600，只有属主可读。\n\n--file 不经过 Caddy，直接读取收件箱文件（store bolt），此时不能有 Caddy 打开它。文件损坏时\n能读多少读多少，漏掉的内容在标准错误输出上说明，命令以失败退出。",
	"Read this file of an inbox, which no Caddy has open, instead of asking Caddy": "直接读取该收件箱文件，不经过 Caddy（不能有 Caddy 打开它）",
}
